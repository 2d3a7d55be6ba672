"""Prefect servers: a server of a test module, and the servers that `flows.services` starts in a project."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from tests.helpers.projects import ROOT

SETTINGS = {
    "DO_NOT_TRACK": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_COLORS": "false",
    "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "1",
    "PREFECT_SERVER_SERVICES_SCHEDULER_DEPLOYMENT_BATCH_SIZE": "10",
    "PREFECT_SERVER_SERVICES_SCHEDULER_MAX_RUNS": "3",
    "PREFECT_SERVER_SERVICES_SCHEDULER_MIN_RUNS": "1",
    "PREFECT_RUNNER_POLL_FREQUENCY": "1",
}


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nothing listens on."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def eventually(condition: Callable[[], Any], patience: float) -> Any:
    """Call `condition` until its value is true, and return that value; return None after `patience` seconds."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.3)
    return None


class Server:
    """A Prefect server on a free port with its own database. env: the environment of its clients."""

    def __init__(self, home: Path) -> None:
        self.log = home / "server.log"
        self.url = f"http://127.0.0.1:{free_port()}/api"
        own = {"PREFECT_HOME": str(home), "PREFECT_API_URL": self.url}
        database = {"PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{home / 'prefect.db'}"}
        paths = {"PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
        self.env = {**os.environ, **SETTINGS, **own, **database, **paths}

    def is_healthy(self) -> bool:
        """Whether the server answers."""
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False

    def ask(self, what: str, **query: Any) -> list[dict[str, Any]]:
        """Filter objects such as flow_runs or task_runs."""
        data = json.dumps(query).encode()
        request = urllib.request.Request(f"{self.url}/{what}/filter", data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def start(self, *argv: str, cwd: Path, **settings: Any) -> subprocess.Popen[str]:
        """Start a command that uses this server, in a session of its own."""
        return subprocess.Popen(argv, cwd=cwd, env=self.env, text=True, start_new_session=True, **settings)


def task_states(server: Server, flow_run: str) -> dict[str, str]:
    """The states of the tasks of a flow run by name; they reach the database a moment after the flow ends."""
    runs = server.ask("task_runs", flow_runs={"id": {"any_": [flow_run]}})
    return {run["name"]: run["state_name"] for run in runs}


def call(project: Path, what: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m flows.services WHAT` in a project, without the settings of other servers."""
    variables = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_", "PYTHONPATH"))}
    command = [sys.executable, "-m", "flows.services", what]
    return subprocess.run(command, cwd=project, env={**variables, **env}, capture_output=True, text=True, check=False)


class Ui:
    """Client of the API of a project's Prefect server, for tests of its pages."""

    def __init__(self, project: Path, port: int) -> None:
        self.project, self.url = project, f"http://127.0.0.1:{port}"
        self.token = (project / "runs/services/token").read_text().strip()
        self.login = f"http://onestep:{self.token}@127.0.0.1:{port}/onestep/login"  # logs a browser in
        self.headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self.token}"}

    def ask(self, what: str, **query: Any) -> Any:
        """Post a query to the API and return its answer."""
        return self._request(what, json.dumps(query).encode())

    def deployment(self, name: str) -> str:
        """The id of a deployment."""
        return next(d["id"] for d in self.ask("deployments/filter") if d["name"] == name)

    def wait_for(self, target: str | None, state: str) -> dict[str, Any]:
        """Wait up to eight minutes until the flow run with this target has this state, and return the run."""
        deadline = time.monotonic() + 480
        while time.monotonic() < deadline:
            runs = [r for r in self.ask("flow_runs/filter") if r["parameters"].get("target") == target]
            if runs and runs[0]["state_type"] in (state, "FAILED", "CRASHED"):
                break
            time.sleep(0.5)
        assert runs[0]["state_type"] == state, runs[0]["state"]
        return runs[0]

    def history(self, run: str) -> list[dict[str, Any]]:
        """The states of a flow run in chronological order."""
        return sorted(self._request(f"flow_run_states/?flow_run_id={run}"), key=lambda state: state["timestamp"])

    def _request(self, what: str, body: bytes | None = None) -> Any:
        request = urllib.request.Request(f"{self.url}/api/{what}", body, self.headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def messages(self, run: str, after: str) -> list[str]:
        """The messages that a flow run has logged since it entered the state `after`."""
        since = next(s["timestamp"] for s in self.history(run) if s["type"] == after)
        logged = self.ask("logs/filter", logs={"flow_run_id": {"any_": [run]}}, sort="TIMESTAMP_ASC")
        return [line["message"] for line in logged if line["timestamp"] > since]

    def completed_tasks(self, run: str) -> list[str]:
        """The names of the completed tasks of a flow run, in the order of their end."""
        own = {"flow_runs": {"id": {"any_": [run]}}, "sort": "END_TIME_DESC"}
        return [t["name"] for t in reversed(self.ask("task_runs/filter", **own)) if t["state_type"] == "COMPLETED"]

    def stages(self) -> list[int]:
        """The process ids of the stages that run in the project."""
        ids = []
        for process in psutil.process_iter():
            try:
                words = " ".join(process.cmdline())
                if "-m stages." in words and Path(process.cwd()).is_relative_to(self.project):
                    ids.append(process.pid)
            except (psutil.Error, OSError):
                continue
        return ids
