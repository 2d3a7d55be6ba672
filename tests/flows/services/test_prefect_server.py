"""A real Prefect server starts, its scheduler works, and the command line works with it.

With fastapi 0.155 or later the server of Prefect 3.8 does not start; with SQLAlchemy 2.1 its scheduler starts no run.
"""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from dvc.repo import Repo
from ruamel.yaml import YAML

from flows.runtime.process import end_group
from tests.helpers.projects import ROOT
from tests.helpers.servers import Server, eventually, task_states

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


@pytest.mark.slow
def test_a_scheduled_run_completes(server: Server, tmp_path: Path):
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


@pytest.mark.slow
def test_every_deployment_for_a_work_pool_is_created_from_the_root(server: Server):
    """`prefect deploy` finds the entrypoints of deploy/prefect.yaml, and reads the schemas of their parameters."""
    prefect = [sys.executable, "-m", "prefect", "--no-prompt"]
    env = {**server.env, "ONESTEP_ROOT": str(ROOT)}
    for words in (
        ["work-pool", "create", "local", "--type", "process"],
        ["deploy", "--prefect-file", "deploy/prefect.yaml", "--all"],
    ):
        done = subprocess.run([*prefect, *words], cwd=ROOT, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    created = {d["name"]: d for d in server.ask("deployments") if d["work_pool_name"] == "local"}
    assert created.keys() == {"pool-workspace", "pool-experiment", "pool-ablation", "pool-champion", "pool-search"}
    for deployment in created.values():
        path, function = deployment["entrypoint"].split(":")
        assert (ROOT / path).is_file() and f"def {function}(" in (ROOT / path).read_text()
        assert "root" not in deployment["parameter_openapi_schema"]["properties"]
        assert not any(schedule["active"] for schedule in deployment["schedules"])


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("toy")
    subprocess.run(["git", "init", "-q", "-b", "main"], cwd=root, check=True)
    Repo.init(str(root)).close()
    YAML().dump({"stages": TOY}, root / "dvc.yaml")
    (root / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    return root


def start_distill(server: Server, toy: Path, target: str) -> subprocess.Popen[str]:
    """Start a run that SIGINT interrupts. Background jobs of a shell, and their children, ignore SIGINT by default."""
    heeds = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
    command = (sys.executable, "-c", heeds, sys.executable, "-m", "flows.distill", "--target", target)
    return server.start(*command, cwd=toy, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def last_flow_run(server: Server) -> dict[str, Any]:
    return server.ask("flow_runs", flows={"name": {"any_": ["distill"]}}, sort="START_TIME_DESC", limit=1)[0]


@pytest.mark.slow
def test_a_flow_runs_the_stages_that_a_target_needs(server: Server, toy: Path):
    process = start_distill(server, toy, "second")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "first     | hello" in err
    run = last_flow_run(server)
    assert run["state_type"] == "COMPLETED"
    expected = {"first": "Ran", "second": "Ran"}
    assert eventually(lambda: task_states(server, run["id"]) == expected, patience=20), task_states(server, run["id"])


@pytest.mark.slow
def test_a_failing_stage_fails_the_flow_in_one_line(server: Server, toy: Path):
    process = start_distill(server, toy, "broken")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "Traceback" not in out + err
    assert [line for line in err.splitlines() if "the sky fell" in line] == ["error: stage broken: the sky fell"]
    run = last_flow_run(server)
    assert (run["state_name"], run["state"]["message"]) == ("Failed", "stage broken: the sky fell")


@pytest.mark.slow
@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 75), (signal.SIGUSR1, 75)])
def test_a_signal_ends_the_run_and_all_its_processes(server: Server, toy: Path, number: signal.Signals, code: int):
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
