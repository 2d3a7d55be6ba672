"""The sqlite databases of MLflow and Prefect: made and migrated as copies, which then take the place of the file.

Both tools change a database in many steps. If a signal ends them in between, the next start fails on the tables that
are there already. Here such a half-made copy is dropped, and the file itself is always whole.
"""

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import psutil

from dmd.errors import UserError
from dmd.storage.files import write_text
from flows.runtime.environment import DATABASE_URL, sqlite_url
from flows.runtime.file_lock import hold_lock

PATIENCE = 600  # seconds; a migration takes half a minute on a busy machine
MLFLOW_CREATE = (
    "import sys; from mlflow import MlflowClient; MlflowClient(sys.argv[1]).search_experiments(max_results=1)"
)


@dataclass(frozen=True)
class Tool:
    """A tool that keeps a sqlite database."""

    package: str
    name: str
    content: tuple[str, ...]  # tables whose rows a user would miss

    def commands(self, file: Path, exists: bool) -> list[tuple[list[str], Mapping[str, str]]]:
        """Return the commands, with their environment, that bring a database to the version of the installed tool."""
        if self.package == "prefect":
            upgrade = [sys.executable, "-m", "prefect", "server", "database", "upgrade", "-y"]
            return [(upgrade, {DATABASE_URL: sqlite_url(file)})]
        uri = f"sqlite:///{file}"
        upgrade = ([sys.executable, "-m", "mlflow", "db", "upgrade", uri], {})
        return [*([upgrade] if exists else []), ([sys.executable, "-c", MLFLOW_CREATE, uri], {})]


MLFLOW = Tool("mlflow", "MLflow", ("runs", "registered_models"))
PREFECT = Tool("prefect", "Prefect", ("flow_run",))


def prepare_database(file: Path, tool: Tool) -> None:
    """Create the database, or migrate it to the installed version of the tool; do nothing if it is of that version.

    Raises UserError, with the remedy, if the tool cannot use the file. An unusable database without content is made
    anew, since all that it holds is the beginning of its own creation.
    """
    file = file.resolve()  # of a link, the file that it leads to
    if file.is_dir():
        raise UserError(f"{file} is a folder, and {tool.name} needs a file there; name a file in it")
    marker = _marker(file)
    with hold_lock(file.with_name(f"{file.name}.lock")):
        if _describe(file, tool) == _read_marker(marker):
            return
        copy = file.with_name(f".{file.name}.new")
        _remove(copy)
        copy.touch(mode=0o600)
        exists = file.is_file() and file.stat().st_size > 0
        reason = _copy(file, copy) if exists else None
        reason = reason or _migrate(copy, tool, exists)
        if reason and exists:
            if _count(file, tool.content) != 0:
                raise UserError(_explain(file, tool, reason))
            print(f"note: {file} was not whole and held nothing; it is made anew", file=sys.stderr, flush=True)
            _remove(copy)
            exists, reason = False, _migrate(copy, tool, exists=False)
        if reason:
            raise UserError(f"{tool.name} cannot create the database {file}: {reason}")
        _replace(file, copy, exists, tool)
        write_text(marker, json.dumps(_describe(file, tool)) + "\n")


def is_current(file: Path, tool: Tool) -> bool:
    """Whether the database is there and of the version of the tool, so that `prepare_database` has nothing to do."""
    file = file.resolve()
    return _describe(file, tool) == _read_marker(_marker(file))


def _marker(file: Path) -> Path:
    return file.with_name(f"{file.name}.version")


def _describe(file: Path, tool: Tool) -> dict[str, str | None]:
    """Return the version of the tool, and the revision that the database says it has."""
    return {"tool": f"{tool.package} {version(tool.package)}", "revision": _read_revision(file)}


def _read_marker(marker: Path) -> dict[str, str | None] | None:
    with contextlib.suppress(OSError, ValueError):
        content = json.loads(marker.read_text())
        return content if content["revision"] else None
    return None


def _query(file: Path, statement: str) -> list[tuple[str | int, ...]]:
    """Return the rows of a query; none if the file is missing, or if it is no database with that table."""
    with contextlib.suppress(sqlite3.Error):
        connection = sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True, timeout=10)
        with contextlib.closing(connection):
            return connection.execute(statement).fetchall()
    return []


def _read_revision(file: Path) -> str | None:
    rows = _query(file, "SELECT version_num FROM alembic_version")
    return str(rows[0][0]) if len(rows) == 1 else None


def _count(file: Path, tables: tuple[str, ...]) -> int | None:
    """Return the number of rows in the tables that exist; None if the file is no database."""
    if not _query(file, "SELECT count(*) FROM sqlite_master"):
        return None
    return sum(int(rows[0][0]) for table in tables if (rows := _query(file, f"SELECT count(*) FROM {table}")))


def _copy(file: Path, copy: Path) -> str | None:
    """Copy a database with what its write-ahead log holds. Returns why that failed; None if it did not."""
    try:
        source, target = sqlite3.connect(file, timeout=60), sqlite3.connect(copy)
        with contextlib.closing(source), contextlib.closing(target):
            source.backup(target)
    except sqlite3.Error as e:
        return f"it is no sqlite database ({e})"
    return None


def _migrate(copy: Path, tool: Tool, exists: bool) -> str | None:
    """Run the tool's own migration. Returns the last line of its output if it fails; None if it does not."""
    for command, variables in tool.commands(copy, exists):
        env = {**os.environ, **variables}
        try:
            done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=PATIENCE, check=False)
        except subprocess.TimeoutExpired:
            return f"no end after {PATIENCE} s"
        if done.returncode != 0:
            lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
            errors = [line for line in lines if "Error" in line or "Can't locate revision" in line]
            return (errors or lines or [f"exit code {done.returncode}"])[-1][:300]
    return None


def _replace(file: Path, copy: Path, exists: bool, tool: Tool) -> None:
    """Put the copy in the place of the file, unless both are of one revision: a process may have the file open."""
    if exists and _read_revision(copy) == _read_revision(file):
        return _remove(copy)
    if exists and (users := _find_users(file)):
        raise UserError(f"{file} must be migrated to {tool.name} {version(tool.package)}; end its users first: {users}")
    with contextlib.closing(sqlite3.connect(copy, timeout=60)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # the copy's write-ahead log stays behind
    if exists:
        shutil.copymode(file, copy)
    for suffix in ("-wal", "-shm"):
        file.with_name(file.name + suffix).unlink(missing_ok=True)
    copy.replace(file)
    _remove(copy)


def _remove(copy: Path) -> None:
    for suffix in ("", "-wal", "-shm", "-journal"):
        copy.with_name(copy.name + suffix).unlink(missing_ok=True)


def _find_users(file: Path) -> str:
    """Return the ids of the user's processes that have the file open, separated by commas."""
    ids = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if any(Path(f.path) == file for f in process.open_files()):
                ids.append(f"pid {process.pid}")
    return ", ".join(ids)


def _explain(file: Path, tool: Tool, reason: str) -> str:
    return (
        f"{tool.name} {version(tool.package)} cannot use the database {file} ({reason}): another version made it, or "
        f"it is damaged. Use that version of {tool.name}, or move the file away and run again: its runs stay in it"
    )
