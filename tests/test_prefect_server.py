"""A real Prefect server: it starts, its scheduler works, and the command line behaves under it.

With fastapi 0.155 or later the server of Prefect 3.8 does not start; with SQLAlchemy 2.1 its scheduler starts no run.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dvc.repo import Repo
from ruamel.yaml import YAML

from flows.runtime.process import end_group

REPO = Path(__file__).parents[1]
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
TICK = """
from prefect import flow

@flow
def tick() -> None:
    pass

if __name__ == "__main__":
    tick.serve(name="every-few-seconds", interval=4, limit=1)
"""
TOY = {
    "first": {"cmd": "echo hello && echo 1 > first.txt", "outs": ["first.txt"], "meta": {"prefect": {"retries": 1}}},
    "second": {"cmd": "cp first.txt second.txt", "deps": ["first.txt"], "outs": ["second.txt"]},
    "broken": {
        "cmd": "printf 'error: broken: the %s fell\\n' sky >&2; exit 1",
        "deps": ["second.txt"],
        "outs": ["x.txt"],
    },
    "endless": {"cmd": "sleep 300 & echo pid $!; echo pid $$; wait", "outs": ["y.txt"]},
}


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def eventually(found: Callable[[], Any], patience: float) -> Any:
    """The first true answer, or None after `patience` seconds."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        if answer := found():
            return answer
        time.sleep(0.3)
    return None


class Server:
    def __init__(self, home: Path) -> None:
        self.log = home / "server.log"
        self.url = f"http://127.0.0.1:{free_port()}/api"
        own = {"PREFECT_HOME": str(home), "PREFECT_API_URL": self.url}
        database = {"PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{home / 'prefect.db'}"}
        paths = {"PYTHONPATH": f"{REPO}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
        self.env = {**os.environ, **SETTINGS, **own, **database, **paths}

    def is_healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False

    def ask(self, what: str, **query: Any) -> list[dict[str, Any]]:
        data = json.dumps(query).encode()
        request = urllib.request.Request(f"{self.url}/{what}/filter", data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def start(self, *argv: str, cwd: Path, **settings: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(argv, cwd=cwd, env=self.env, text=True, start_new_session=True, **settings)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("prefect")
    server = Server(home)
    argv = ["-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", server.url.split(":")[2].split("/")[0]]
    with server.log.open("w") as log:
        process = server.start(sys.executable, *argv, cwd=home, stdout=log, stderr=subprocess.STDOUT)
    try:
        up = eventually(lambda: server.is_healthy() or process.poll() is not None, patience=120)
        assert up and process.poll() is None, server.log.read_text()[-3000:]
        yield server
    finally:
        end_group(process)


def test_a_scheduled_run_happens(server: Server, tmp_path: Path):
    (tmp_path / "tick.py").write_text(TICK)
    with (tmp_path / "serve.log").open("w") as log:
        serving = server.start(sys.executable, "tick.py", cwd=tmp_path, stdout=log, stderr=subprocess.STDOUT)

    def completed() -> list[dict[str, Any]]:
        runs = server.ask("flow_runs", flow_runs={"state": {"type": {"any_": ["COMPLETED"]}}})
        return [run for run in runs if run["auto_scheduled"]]

    try:
        logs = (tmp_path / "serve.log", server.log)
        assert eventually(completed, patience=90), "\n".join(log.read_text()[-2000:] for log in logs)
    finally:
        end_group(serving)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("toy")
    subprocess.run(["git", "init", "-q", "-b", "main"], cwd=root, check=True)
    Repo.init(str(root)).close()
    YAML().dump({"stages": TOY}, root / "dvc.yaml")
    (root / "params.yaml").write_text((REPO / "params.yaml").read_text())
    return root


def start_distill(server: Server, toy: Path, target: str) -> subprocess.Popen[str]:
    """As from a terminal: a shell's background jobs ignore SIGINT, and so would what the tests start in one."""
    heeds = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
    command = (sys.executable, "-c", heeds, sys.executable, "-m", "flows.distill", "--target", target)
    return server.start(*command, cwd=toy, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def last_flow_run(server: Server) -> dict[str, Any]:
    return server.ask("flow_runs", flows={"name": {"any_": ["distill"]}}, sort="START_TIME_DESC", limit=1)[0]


def task_states(server: Server, flow_run: str) -> dict[str, str]:
    """Task runs reach the database a moment after the flow has ended."""
    runs = server.ask("task_runs", flow_runs={"id": {"any_": [flow_run]}})
    return {run["name"]: run["state_name"] for run in runs}


def test_a_flow_runs_the_stages_that_a_target_needs(server: Server, toy: Path):
    process = start_distill(server, toy, "second")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "first     | hello" in err
    run = last_flow_run(server)
    assert run["state_type"] == "COMPLETED"
    expected = {"first": "Ran", "second": "Ran"}
    assert eventually(lambda: task_states(server, run["id"]) == expected, patience=20), task_states(server, run["id"])


def test_a_failing_stage_fails_the_flow_in_one_line(server: Server, toy: Path):
    process = start_distill(server, toy, "broken")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "Traceback" not in out + err
    assert [line for line in err.splitlines() if "the sky fell" in line] == ["error: stage broken: the sky fell"]
    run = last_flow_run(server)
    assert (run["state_name"], run["state"]["message"]) == ("Failed", "stage broken: the sky fell")


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_everything(server: Server, toy: Path, number: signal.Signals, code: int):
    process = start_distill(server, toy, "endless")
    assert process.stderr is not None
    pids: list[int] = []
    for line in process.stderr:
        if "| pid " in line:
            pids.append(int(line.split()[-1]))
        if len(pids) == 2:
            break
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert "Traceback" not in err
    assert [line for line in err.splitlines() if line.startswith("error: ")] == err.splitlines()[-1:]
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    assert last_flow_run(server)["state_type"] == "CRASHED"
