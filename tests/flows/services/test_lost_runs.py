"""A run that a machine lost is marked as crashed, and resumes from its checkpoint once a worker is there again."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from flows.services.lost_runs import SILENCE, _mark, _restart
from tests.helpers.params import set_params
from tests.helpers.projects import copy_of_the_project
from tests.helpers.servers import Ui, call, free_port


def until(condition: Callable[[], object], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.5)


def test_runs_of_other_projects_on_a_shared_server_are_left_alone() -> None:
    for automation in (_mark(), _restart()):
        trigger = automation.model_dump(mode="json")["trigger"]
        assert trigger["match_related"] == {"prefect.resource.id": ["prefect.tag.onestep"]}


@pytest.mark.slow
@pytest.mark.long  # it waits for four minutes
def test_a_killed_run_is_marked_as_crashed_and_resumes_from_its_checkpoint(tmp_path: Path) -> None:
    project, port = copy_of_the_project(tmp_path / "project"), free_port()
    set_params(project / "params.yaml", {"teacher.steps": 40_000})
    ports = {"PREFECT_PORT": str(port), "MLFLOW_PORT": str(free_port())}
    try:
        assert call(project, "up", **ports).returncode == 0
        ui = Ui(project, port)
        request = {"parameters": {"target": "teacher"}, "state": {"type": "SCHEDULED"}}
        run = ui.ask(f"deployments/{ui.deployment('workspace')}/create_flow_run", **request)
        until(lambda: list((project / "runs").glob("teacher-*/state-*.pt")), 240, "a checkpoint")

        worker = psutil.Process(json.loads((project / "runs/services/deployments.json").read_text())["pid"])
        runs = [p for p in worker.children(recursive=True) if "-m stages." not in " ".join(p.cmdline())]
        for process in [worker, *runs]:
            process.kill()
        until(lambda: not ui.stages(), 60, "the guard ends the stage")

        def states() -> list[str]:
            return [state["type"] for state in ui.history(run["id"])]

        assert states()[-1] == "RUNNING", "the server knows of the kill too early"
        until(lambda: "CRASHED" in states(), SILENCE.total_seconds() + 120, "the run is marked as crashed")
        until(lambda: states()[-1] == "SCHEDULED", 60, "the run is scheduled again")
        assert call(project, "up", **ports).returncode == 0
        until(lambda: states()[-1] == "RUNNING" and ui.stages(), 240, "the run resumes")
        until(lambda: any("teacher: " in line for line in ui.messages(run["id"], after="CRASHED")), 120, "progress")
        (first, *_) = [line for line in ui.messages(run["id"], after="CRASHED") if "/40000 steps" in line]
        assert int(first.split("teacher: ")[1].split("/")[0]) > 250, first
    finally:
        call(project, "down", **ports)
