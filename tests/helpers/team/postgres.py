"""A Postgres server in a temporary folder, from the programs of Debian's package `postgresql`."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.servers import free_port

USERS = ("postgres", "nobody")  # Postgres refuses to run as root


@dataclass(frozen=True)
class Postgres:
    """A running server of one superuser with a password, on 127.0.0.1."""

    port: int
    user: str
    password: str
    programs: Path

    def execute(self, sql: str) -> None:
        """Run SQL statements, each in a transaction of its own, in the database `postgres`."""
        address = ["-h", "127.0.0.1", "-p", str(self.port), "-U", self.user, "-d", "postgres"]
        command = [self.programs / "psql", *address, "-v", "ON_ERROR_STOP=1", "-q"]
        subprocess.run(command, input=sql, text=True, check=True, env={"PGPASSWORD": self.password})


def find_programs() -> Path | None:
    """The folder of initdb and pg_ctl: Debian keeps them off the PATH."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    return max(Path("/usr/lib/postgresql").glob("*/bin"), default=None, key=lambda p: int(p.parent.name))


@contextmanager
def postgres(user: str, password: str) -> Iterator[Postgres]:
    """Start a server that wants the password. Skip the test if Postgres is not installed."""
    programs = find_programs()
    if programs is None:
        pytest.skip("no initdb: install Postgres (Debian, Ubuntu: apt-get install postgresql)")
    folder = Path(tempfile.mkdtemp(prefix="onestep-postgres-"))  # pytest's folders are closed to other users
    account = _account()
    if "user" in account:
        shutil.chown(folder, account["user"])
    data, secret, port = folder / "data", folder / "password", free_port()

    def call(name: str, *words: object) -> None:
        command = [programs / name, "-D", data, *words]
        # Not captured: the server inherits the streams of pg_ctl and keeps them open.
        with (folder / "log").open("ab") as log:
            subprocess.run(command, cwd=folder, stdout=log, stderr=log, stdin=subprocess.DEVNULL, check=True, **account)

    try:
        secret.write_text(password)
        call("initdb", "-U", user, f"--pwfile={secret}", "-A", "scram-sha-256", "-E", "UTF8", "--no-sync")
        options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories='' -c fsync=off"
        call("pg_ctl", "start", "-w", "-o", options)
        try:
            yield Postgres(port, user, password, programs)
        finally:
            call("pg_ctl", "stop", "-m", "fast")
    except subprocess.CalledProcessError as e:
        raise AssertionError((folder / "log").read_text(errors="replace")[-2000:]) from e
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _account() -> dict[str, Any]:
    """Arguments of subprocess.run by which a child of root runs as another user."""
    if os.geteuid() != 0:
        return {}
    known = {entry.pw_name for entry in pwd.getpwall()}
    name = next((name for name in USERS if name in known), None)
    if name is None:
        pytest.skip("Postgres refuses to run as root, and there is no other user to run it as")
    return {"user": name, "group": pwd.getpwnam(name).pw_gid, "extra_groups": []}
