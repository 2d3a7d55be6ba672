"""A team's server from deploy/compose.yaml, without docker: Postgres, an S3 endpoint, Prefect and MLflow."""

import os
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.services.access import client_variables, make_token
from tests.helpers.projects import environment
from tests.helpers.servers import eventually, free_port
from tests.helpers.team.compose import bucket_names, read_compose, read_settings, server_command
from tests.helpers.team.postgres import postgres

PATIENCE = 180  # seconds until a server answers; the first start migrates its database
END_PATIENCE = 20  # seconds
KEYS = {"AWS_ACCESS_KEY_ID": "onestep", "AWS_SECRET_ACCESS_KEY": "key-of-the-store"}


@dataclass(frozen=True)
class Team:
    """Addresses of the running servers. clients: the variables of docs/team_server.md."""

    prefect: str
    mlflow: str
    store: str
    token: str
    clients: dict[str, str]
    logs: Path

    def objects(self, bucket: str) -> list[str]:
        """The keys of the objects in a bucket."""
        pages = _s3(self.store).get_paginator("list_objects_v2").paginate(Bucket=bucket)
        return [entry["Key"] for page in pages for entry in page.get("Contents", [])]


@contextmanager
def team_server(scratch: Path) -> Iterator[Team]:
    """Start the servers with the commands and settings of deploy/. `scratch` holds their logs."""
    ports = {name: free_port() for name in ("prefect", "mlflow", "minio")}
    hosts = {name: f"127.0.0.1:{port}" for name, port in ports.items()}
    token = make_token(scratch / "server")
    settings = read_settings(
        {
            "POSTGRES_PASSWORD": "password-of-postgres",
            "MINIO_ROOT_USER": KEYS["AWS_ACCESS_KEY_ID"],
            "MINIO_ROOT_PASSWORD": KEYS["AWS_SECRET_ACCESS_KEY"],
            "ONESTEP_TOKEN": token,
            "PREFECT_HOSTS": hosts["prefect"],
            "MLFLOW_HOSTS": hosts["mlflow"],
        }
    )
    compose = read_compose(settings)
    with ExitStack() as stack:
        own = compose["services"]["postgres"]["environment"]
        database = stack.enter_context(postgres(own["POSTGRES_USER"], own["POSTGRES_PASSWORD"]))
        database.execute(compose["configs"]["databases"]["content"])
        store = f"http://{hosts['minio']}"
        endpoint = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(ports["minio"])]
        start(stack, endpoint, scratch / "s3.log", scratch, {}, f"{store}/moto-api/data.json")
        for name in bucket_names(compose):
            _s3(store).create_bucket(Bucket=name)
        addresses = {"@postgres:5432": f"@127.0.0.1:{database.port}", "http://minio:9000": store}
        for name, health in (("prefect", "/api/health"), ("mlflow", "/health")):
            command = server_command(compose, name, ports[name], addresses, scratch)
            start(stack, command.argv, scratch / f"{name}.log", scratch, command.env, f"http://{hosts[name]}{health}")
        prefect, mlflow = f"http://{hosts['prefect']}/api", f"http://{hosts['mlflow']}"
        clients = {"PREFECT_API_URL": prefect, "MLFLOW_TRACKING_URI": mlflow, **KEYS}
        for name in ("prefect", "mlflow"):
            clients |= client_variables(name, token)
        yield Team(prefect, mlflow, store, token, clients, scratch)


def start(
    stack: ExitStack, argv: list[str], log: Path, cwd: Path, env: dict[str, str], health: str = ""
) -> "subprocess.Popen[bytes]":
    """Start a command in a session of its own, which ends with the stack; wait until `health` answers."""
    home = {"HOME": str(log.with_suffix("")), "PREFECT_HOME": str(log.with_suffix("") / ".prefect")}
    log.with_suffix("").mkdir(exist_ok=True)
    with log.open("wb") as out:
        process = subprocess.Popen(
            argv, cwd=cwd, env={**environment(), **home, **env}, stdin=subprocess.DEVNULL, stdout=out,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    stack.callback(end, process)
    if health:
        up = eventually(lambda: process.poll() is not None or status(health) == 200, PATIENCE)
        assert up and process.poll() is None, log.read_text(errors="replace")[-3000:]
    return process


def end(process: "subprocess.Popen[bytes]") -> None:
    """End a process and its children: with SIGTERM, and after END_PATIENCE with SIGKILL."""
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(END_PATIENCE)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def status(url: str, token: str = "") -> int:
    """The status of a GET; 0 if nothing answers."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=5) as answer:
            return answer.status
    except urllib.error.HTTPError as e:
        return e.code
    except OSError:
        return 0


def program(name: str) -> str:
    """The path of a program of the virtual environment."""
    path = shutil.which(name, path=environment()["PATH"])
    assert path is not None, name
    return path


def _s3(store: str) -> Any:
    import boto3

    keys = {name.lower(): value for name, value in KEYS.items()}
    return boto3.client("s3", endpoint_url=store, region_name="us-east-1", **keys)
