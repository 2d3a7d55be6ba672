"""`make up` and `make down`: a Prefect server, an MLflow server and the served deployments, in the background.

Each is a process group of its own with a log and a pid file in runs/services; `down` ends only what `up` started.
"""

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from dmd.errors import UserError
from dmd.storage.files import write_text
from dmd.storage.worktree import main_worktree
from evaluation.sources import mlflow_database
from flows.registry.store import tracking_uri
from flows.runtime.command import run_command
from flows.runtime.environment import child_environment, prefect_database, sqlite_url
from flows.runtime.file_lock import hold_lock

HOST = "127.0.0.1"
PORTS = {"prefect": ("PREFECT_PORT", 4200), "mlflow": ("MLFLOW_PORT", 5000)}
START = 240.0  # seconds; the first start migrates a database, which takes half a minute on a busy machine
END = 20.0  # seconds before a process that does not end is killed


@dataclass(frozen=True)
class Service:
    """One background process. `health` is an address that answers once it is ready.

    With a `body` it is a query, whose answer must hold a deployment that is polled for runs.
    """

    name: str
    argv: list[str]
    url: str
    health: str
    body: bytes | None = None
    port: int | None = None
    env: dict[str, str] = field(default_factory=dict)


def services(root: Path) -> list[Service]:
    """In the order in which they start. Raises UserError for a port that is none."""
    prefect, mlflow = (_port(*PORTS[name]) for name in ("prefect", "mlflow"))
    api, store = f"http://{HOST}:{prefect}/api", tracking_uri(root)
    python = [sys.executable, "-m"]
    made = [
        Service(
            "prefect",
            [*python, "prefect", "server", "start", "--host", HOST, "--port", str(prefect)],
            f"http://{HOST}:{prefect}",
            f"{api}/health",
            port=prefect,
            # The pages ask port 4200 unless they are told; two servers must not share a database.
            env={
                "PREFECT_SERVER_UI_API_URL": api,
                "PREFECT_SERVER_DATABASE_CONNECTION_URL": sqlite_url(prefect_database(root)),
                "PREFECT_SERVER_DATABASE_TIMEOUT": "60",
            },
        )
    ]
    mlflow_url = store if store.startswith("http") else f"http://{HOST}:{mlflow}"
    if not store.startswith("http"):  # otherwise a server of the team's is configured
        artifacts = mlflow_database(root).with_name("artifacts")
        argv = [
            *python,
            "mlflow",
            "server",
            "--backend-store-uri",
            store,
            "--artifacts-destination",
            artifacts.as_uri(),
        ]
        argv += ["--host", HOST, "--port", str(mlflow), "--workers", "1"]
        made.append(Service("mlflow", argv, mlflow_url, f"{mlflow_url}/health", port=mlflow))
    env = {"PREFECT_API_URL": api, "MLFLOW_TRACKING_URI": mlflow_url}
    page, query = f"http://{HOST}:{prefect}/deployments", f"{api}/deployments/filter"
    return [*made, Service("deployments", [*python, "flows.serve"], page, query, b"{}", env=env)]


def _port(variable: str, default: int) -> int:
    text = os.environ.get(variable, str(default))
    if not text.isdigit() or not 1 <= int(text) <= 65535:
        raise UserError(f"{variable}: {text!r} is no port; it must be 1 to 65535")
    return int(text)


def up(root: Path) -> list[Service]:
    """Start what does not run yet, each once the one before it answers. Raises UserError, naming the log."""
    folder = _folder(root)
    with hold_lock(folder / "lock"):
        for path in (prefect_database(root), mlflow_database(root)):
            path.parent.mkdir(parents=True, exist_ok=True)
        wanted = services(root)
        for service in wanted:
            if _running(folder, service.name):
                print(f"{service.name}: already runs, {service.url}")
                continue
            process = _start(root, folder, service)
            _wait_until_ready(service, process, folder / f"{service.name}.log")
            print(f"{service.name}: {service.url}", flush=True)
        return wanted


def down(root: Path) -> None:
    """End what `up` started, last first; a stale pid file is removed and nothing else is touched."""
    folder = _folder(root)
    with hold_lock(folder / "lock"):
        for name in ("deployments", "mlflow", "prefect"):
            process = _running(folder, name)
            if process is not None:
                _end(process)
                print(f"{name}: ended", flush=True)
            (folder / f"{name}.json").unlink(missing_ok=True)


def use_local_servers(root: Path) -> None:
    """Let this process use the servers that `up` started, where the environment names no others."""
    for name, variable, path in (("prefect", "PREFECT_API_URL", "/api"), ("mlflow", "MLFLOW_TRACKING_URI", "")):
        if variable not in os.environ and _running(_folder(root), name):
            about = json.loads((_folder(root) / f"{name}.json").read_text())
            os.environ[variable] = about["url"] + path


def _folder(root: Path) -> Path:
    return main_worktree(root) / "runs" / "services"


def _running(folder: Path, name: str) -> psutil.Process | None:
    """The process of the pid file, if it is still the one that was started: numbers are used again."""
    with contextlib.suppress(OSError, json.JSONDecodeError, psutil.NoSuchProcess):
        about = json.loads((folder / f"{name}.json").read_text())
        process = psutil.Process(about["pid"])
        if abs(process.create_time() - about["started"]) < 1 and process.status() != psutil.STATUS_ZOMBIE:
            return process
    return None


def _start(root: Path, folder: Path, service: Service) -> "subprocess.Popen[bytes]":
    if service.port is not None and _taken(service.port):
        variable = PORTS[service.name][0]
        raise UserError(
            f"{service.name}: port {service.port} is taken by another program; set {variable} to a free one"
        )
    log = (folder / f"{service.name}.log").open("ab")
    with log:
        process = subprocess.Popen(
            service.argv,
            cwd=root,
            env={**child_environment(), **service.env},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    about = {"pid": process.pid, "started": psutil.Process(process.pid).create_time(), "url": service.url}
    write_text(folder / f"{service.name}.json", json.dumps(about) + "\n")
    return process


def _taken(port: int) -> bool:
    with socket.socket() as s:
        return s.connect_ex((HOST, port)) == 0


def _wait_until_ready(service: Service, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + START
    while time.monotonic() < deadline:
        if process.poll() is not None:
            last = next((line for line in reversed(log.read_text(errors="replace").splitlines()) if line.strip()), "")
            raise UserError(f"{service.name}: ended with exit code {process.returncode}: {last[:200]} (see {log})")
        if _answers(service):
            return
        time.sleep(0.5)
    raise UserError(f"{service.name}: no answer after {START:g} s; see {log}")


def _answers(service: Service) -> bool:
    asked = urllib.request.Request(service.health, service.body, {"Content-Type": "application/json"})
    with contextlib.suppress(OSError), urllib.request.urlopen(asked, timeout=5) as answer:
        return service.body is None or any(found["status"] == "READY" for found in json.load(answer))
    return False


def _end(process: psutil.Process) -> None:
    """Its whole group: first asked, then made."""
    members = [process, *process.children(recursive=True)]
    for number in (signal.SIGTERM, signal.SIGKILL):
        for member in _alive(members):
            with contextlib.suppress(psutil.NoSuchProcess):
                member.send_signal(number)
        psutil.wait_procs(members, timeout=END)
        if not list(_alive(members)):
            return


def _alive(members: list[psutil.Process]) -> Iterator[psutil.Process]:
    for member in members:
        with contextlib.suppress(psutil.NoSuchProcess):
            if member.is_running() and member.status() != psutil.STATUS_ZOMBIE:
                yield member


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m flows.services", description=__doc__)
    parser.add_argument("what", choices=("up", "down"))
    return run_command({"up": _up, "down": _down}[parser.parse_args().what])


def _up() -> int:
    root = Path.cwd()
    made = {service.name: service.url for service in up(root)}
    print(f"\nPrefect  {made['prefect']}\nMLflow   {made.get('mlflow', tracking_uri(root))}")
    print(f"logs     {_folder(root)}\n")
    print("start a run in the Prefect UI under Deployments; `make down` ends all of this")
    return 0


def _down() -> int:
    down(Path.cwd())
    return 0


if __name__ == "__main__":
    sys.exit(main())
