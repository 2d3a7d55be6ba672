"""`make up` and `make down`: a Prefect server, an MLflow server and the served deployments, in the background.

The servers answer only requests with the token of this folder (flows/services/web.py). Each is a process group with a
log and a pid file in runs/services. `down` ends only the processes that `up` started.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from dmd.debug import CommandParser
from dmd.errors import UserError
from dmd.storage.files import write_text
from dmd.storage.worktree import main_worktree
from evaluation.sources import mlflow_database
from flows.registry.store import database, shown_uri, tracking_uri
from flows.runtime.command import run_command
from flows.runtime.database import MLFLOW, PREFECT, prepare_database
from flows.runtime.environment import DATABASE_URL, child_environment, prefect_database, sqlite_url
from flows.runtime.file_lock import hold_lock
from flows.runtime.moved import list_leftovers
from flows.services.access import client_variables, login_link, make_token, read_token, token_file
from flows.services.processes import end, find_members, find_process

HOST = "127.0.0.1"
PORTS = {"prefect": ("PREFECT_PORT", 4200), "mlflow": ("MLFLOW_PORT", 5000)}
START_PATIENCE = 240.0  # seconds; the first start migrates a database, which takes half a minute on a busy machine


@dataclass(frozen=True)
class Service:
    """One background process.

    health: an address that answers once the service is ready
    body: the body of a POST to `health`; the answer must then hold a deployment that is polled for runs
    """

    name: str
    argv: list[str]
    url: str
    health: str
    body: bytes | None = None
    port: int | None = None
    env: dict[str, str] = field(default_factory=dict)


def list_services(root: Path, token: str) -> list[Service]:
    """Return the services in the order in which they start. Raises UserError for an invalid port.

    If MLFLOW_TRACKING_URI names a server, that server is used and no other one is started.
    """
    prefect_port, mlflow_port = (_read_port(*PORTS[name]) for name in ("prefect", "mlflow"))
    api, store = f"http://{HOST}:{prefect_port}/api", tracking_uri(root)
    services = [_prefect_server(root, prefect_port, api)]
    mlflow_url = store if store.startswith("http") else f"http://{HOST}:{mlflow_port}"
    if not store.startswith("http"):
        services.append(_mlflow_server(root, mlflow_port, mlflow_url, store))
    deployments = Service(
        "deployments",
        [sys.executable, "-m", "flows.serve"],
        url=f"http://{HOST}:{prefect_port}/deployments",
        health=f"{api}/deployments/filter",
        body=b"{}",
        env={"PREFECT_API_URL": api, "MLFLOW_TRACKING_URI": mlflow_url, **client_variables("prefect", token)},
    )
    if mlflow_url != store:
        deployments.env.update(client_variables("mlflow", token))
    return [*services, deployments]


def _prefect_server(root: Path, port: int, api: str) -> Service:
    return Service(
        "prefect",
        _server("prefect_app", port),
        url=f"http://{HOST}:{port}",
        health=f"{api}/health",
        port=port,
        env={
            **_guard_variables(root, port),
            "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": f"http://{HOST}:{port}",
            "PREFECT_SERVER_UI_API_URL": "/api",
            DATABASE_URL: sqlite_url(prefect_database(root)),
            "PREFECT_SERVER_DATABASE_TIMEOUT": "60",
        },
    )


def _mlflow_server(root: Path, port: int, url: str, store: str) -> Service:
    artifacts = (mlflow_database(root).parent / "artifacts").as_uri()
    env = {"MLFLOW_BACKEND_STORE_URI": store, "MLFLOW_ARTIFACTS_DESTINATION": artifacts}
    env |= _guard_variables(root, port)
    return Service("mlflow", _server("mlflow_app", port), url=url, health=f"{url}/health", port=port, env=env)


def _server(app: str, port: int) -> list[str]:
    """The command of a server. Its own log names what was refused, and no client may choose the address in it."""
    module = f"flows.services.web:{app}"
    options = ["--factory", "--host", HOST, "--port", str(port), "--no-access-log", "--no-proxy-headers"]
    return [sys.executable, "-m", "uvicorn", *options, module]


def _guard_variables(root: Path, port: int) -> dict[str, str]:
    # Not localhost: its other address, ::1, may be that of another user's server.
    return {"ONESTEP_TOKEN_FILE": str(token_file(_folder(root))), "ONESTEP_HOSTS": f"{HOST}:{port}"}


def _read_port(variable: str, default: int) -> int:
    text = os.environ.get(variable, str(default))
    if not text.isdigit() or not 1 <= int(text) <= 65535:
        raise UserError(f"{variable}: {text!r} is not a port; use 1 to 65535")
    return int(text)


def up(root: Path) -> list[Service]:
    """Start the services that do not run yet, one after another, each when the previous one is ready.

    Raises UserError with the last line of the log if a service does not start.
    """
    folder = _folder(root)
    with hold_lock(folder / "lock"):
        prepare_database(prefect_database(root), PREFECT)
        if (file := database(tracking_uri(root))) is not None:
            prepare_database(file, MLFLOW)
        token = make_token(folder)
        services = list_services(root, token)
        for service in services:
            if find_process(folder, service.name):
                print(f"{service.name}: already running, {service.url}")
                continue
            if leftovers := end(find_members(folder, service.name)):
                print(f"{service.name}: its main process was killed; ended the {leftovers} processes that it left")
            process = _start(root, folder, service)
            _wait_until_ready(service, process, folder / f"{service.name}.log", token)
            print(f"{service.name}: {service.url}", flush=True)
        return services


def down(root: Path) -> None:
    """End the services that `up` started, the last one first, and remove their pid files."""
    folder = _folder(root)
    with hold_lock(folder / "lock"):
        for name in ("deployments", "mlflow", "prefect"):
            if end(find_members(folder, name)):
                print(f"{name}: ended", flush=True)
            (folder / f"{name}.json").unlink(missing_ok=True)


def use_local_servers(root: Path) -> None:
    """Make this process use the servers that `up` started, unless the environment names others.

    The token is sent to no other server.
    """
    folder = _folder(root)
    for name, variable, path in (("prefect", "PREFECT_API_URL", "/api"), ("mlflow", "MLFLOW_TRACKING_URI", "")):
        if find_process(folder, name) is None:
            continue
        url = json.loads((folder / f"{name}.json").read_text())["url"] + path
        if os.environ.setdefault(variable, url) == url:
            for key, value in client_variables(name, read_token(folder)).items():
                os.environ.setdefault(key, value)


def _folder(root: Path) -> Path:
    return main_worktree(root) / "runs" / "services"


def _start(root: Path, folder: Path, service: Service) -> "subprocess.Popen[bytes]":
    """Start a service and write its pid file. Raises UserError if its port is in use."""
    if service.port is not None and _is_in_use(service.port):
        variable = PORTS[service.name][0]
        raise UserError(f"{service.name}: port {service.port} is in use by another program; set {variable}")
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
    record = {"pid": process.pid, "started": psutil.Process(process.pid).create_time(), "url": service.url}
    write_text(folder / f"{service.name}.json", json.dumps(record) + "\n")
    return process


def _is_in_use(port: int) -> bool:
    with socket.socket() as s:
        return s.connect_ex((HOST, port)) == 0


def _wait_until_ready(service: Service, process: "subprocess.Popen[bytes]", log: Path, token: str) -> None:
    """Wait for a service. Raises UserError if its process ends, or after START_PATIENCE."""
    deadline = time.monotonic() + START_PATIENCE
    while time.monotonic() < deadline:
        if process.poll() is not None:
            last = next((line for line in reversed(log.read_text(errors="replace").splitlines()) if line.strip()), "")
            raise UserError(f"{service.name}: ended with exit code {process.returncode}: {last[:200]} (see {log})")
        if _listens(process, service.port) and _is_ready(service, token):
            return
        time.sleep(0.5)
    raise UserError(f"{service.name}: no answer after {START_PATIENCE:g} s; see {log}")


def _listens(process: "subprocess.Popen[bytes]", port: int | None) -> bool:
    """Whether it is this process that listens on its port: another user's program must not get the token."""
    if port is None:
        return True
    with contextlib.suppress(psutil.Error):
        connections = psutil.Process(process.pid).net_connections("tcp")
        return any(c.status == psutil.CONN_LISTEN and c.laddr and c.laddr[1] == port for c in connections)
    return False


def _is_ready(service: Service, token: str) -> bool:
    headers = {"Content-Type": "application/json"}
    if service.body is not None:
        headers["Authorization"] = f"Bearer {token}"
    request = urllib.request.Request(service.health, service.body, headers)
    with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=5) as answer:
        return service.body is None or any(deployment["status"] == "READY" for deployment in json.load(answer))
    return False


def main() -> int:
    """Run the command; return its exit code."""
    parser = CommandParser(prog="python -m flows.services", description=__doc__)
    parser.add_argument("command", choices=("up", "down"))
    return run_command({"up": _up, "down": _down}[parser.parse_args().command])


def _up() -> int:
    root = Path.cwd()
    for line in list_leftovers(root):
        print(f"note: {line}", file=sys.stderr)
    urls = {service.name: service.url for service in up(root)}
    token = read_token(_folder(root))
    mlflow = login_link(urls["mlflow"], token) if "mlflow" in urls else shown_uri(root)
    print("\nopen these links once in a browser: they log it in, so treat them like passwords")
    print(f"Prefect  {login_link(urls['prefect'], token)}\nMLflow   {mlflow}")
    print(
        f"logs     {_folder(root)}; the token for other clients is in the file {token_file(_folder(root)).name} there\n"
    )
    print("start a run in the Prefect UI under Deployments; `make down` ends these servers")
    return 0


def _down() -> int:
    down(Path.cwd())
    return 0


if __name__ == "__main__":
    sys.exit(main())
