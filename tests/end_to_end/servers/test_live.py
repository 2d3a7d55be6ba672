"""A training can be watched in MLflow, whatever happens to the server or to the flow meanwhile."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from flows.runtime.process import end_group
from tests.helpers.browser import chromium, visit
from tests.helpers.params import set_params
from tests.helpers.projects import copy_of_the_project, environment, run
from tests.helpers.servers import eventually, free_port
from tests.helpers.watched.curves import check_curves, read_points

pytestmark = [pytest.mark.slow, pytest.mark.long]
PATIENCE = 1200.0  # seconds for a step of the pipeline on a busy machine
TURNS = 60


class Store:
    """An MLflow server that can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.client = MlflowClient(self.url)
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start the server and wait until it answers."""
        places = [f"--backend-store-uri=sqlite:///{self.folder / 'db'}", f"--artifacts-destination={self.folder / 'a'}"]
        argv = [sys.executable, "-m", "mlflow", "server", "--workers=1", f"--port={self.port}", *places]
        log = (self.folder / "log").open("a")
        self.process = subprocess.Popen(
            argv, env=environment(), stdout=log, stderr=log, text=True, start_new_session=True
        )
        assert eventually(self._is_healthy, PATIENCE), (self.folder / "log").read_text()[-2000:]

    def _is_healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False

    def kill(self) -> None:
        """Kill all processes of the server."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def runs(self) -> list[Any]:
        """All runs, the newest first."""
        return list(self.client.search_runs([e.experiment_id for e in self.client.search_experiments()]))

    def points(self, run_id: str, key: str) -> list[tuple[int, float]]:
        """The points of a curve, in the order of their steps."""
        return read_points(self.client, run_id, key)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    store = Store(tmp_path_factory.mktemp("mlflow"))
    store.start()
    yield store
    assert store.process is not None
    end_group(store.process)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a training of some length."""
    folder = copy_of_the_project(tmp_path_factory.mktemp("watched") / "project")
    changes = {"train.generator_turns": TURNS, "train.validate_every": 10, "train.checkpoint_every": 10}
    set_params(folder / "params.yaml", changes)
    return folder


@contextmanager
def flow(project: Path, store: Store) -> Iterator[subprocess.Popen[str]]:
    """Start `flows.distill`."""
    with (project / "flow.txt").open("w") as log:
        argv = [sys.executable, "-m", "flows.distill"]
        env = {**environment(), "MLFLOW_TRACKING_URI": store.url}
        process = subprocess.Popen(
            argv, cwd=project, env=env, stdout=log, stderr=log, text=True, start_new_session=True
        )
    try:
        yield process
    finally:
        end_group(process)


def live_turns(project: Path) -> int:
    """The last turn that the stage has written."""
    files = list((project / "runs/live").glob("workspace-*/train/train.jsonl"))
    lines = [line for file in files for line in file.read_text().splitlines()]
    return json.loads(lines[-1])["step"] if lines else 0


def end(process: subprocess.Popen[str], project: Path) -> str:
    """Wait for the end of a flow that succeeds, and return its output."""
    code = process.wait(PATIENCE)
    output = (project / "flow.txt").read_text()
    assert code == 0, output[-3000:]
    return output


def test_a_training_is_watched_while_its_server_is_killed_and_started_again(
    project: Path, store: Store, tmp_path: Path
) -> None:
    with flow(project, store) as process:
        assert eventually(lambda: [r for r in store.runs() if r.info.status == "RUNNING"], PATIENCE)
        (watched,) = store.runs()
        run_id = watched.info.run_id
        first = eventually(lambda: store.points(run_id, "train/critic_total"), PATIENCE)
        began = time.monotonic()
        assert first, (project / "flow.txt").read_text()
        assert eventually(lambda: len(store.points(run_id, "train/critic_total")) > len(first), 30)
        assert eventually(lambda: store.client.list_artifacts(run_id, "pictures/training"), 60)
        page = f"{store.url}/#/experiments/{watched.info.experiment_id}/runs/{run_id}/model-metrics"
        with chromium() as browser, visit(browser, page) as view:
            view.page.get_by_text("critic_total").first.wait_for(timeout=60_000)
            view.page.wait_for_timeout(4000)
            view.screenshot("mlflow-live", tmp_path)
        store.kill()
        turn = live_turns(project)
        assert process.poll() is None and turn < TURNS, f"the training was over in {time.monotonic() - began:.0f} s"
        assert eventually(lambda: live_turns(project) > turn + 5 or process.poll() is not None, PATIENCE)
        store.start()
        output = end(process, project)
    assert [(r.info.run_id, r.info.status) for r in store.runs()] == [(run_id, "FINISHED")]
    assert "runs/live keeps them" in output and "takes the rows of this run again" in output
    check_curves(project, store.client, run_id)
    steps = [step for step, _ in store.points(run_id, "evaluator/classifier.loss")]
    assert steps == [10, 20] == [step for step, _ in store.points(run_id, "evaluator/loss")]
    assert not list((project / "runs/live").iterdir())
    with sqlite3.connect(project / "runs/prefect/prefect.db") as prefect:
        keys = {key for (key,) in prefect.execute("select distinct key from artifact")}
    assert {"loss-curve", "last-picture", "mlflow-run"} <= keys


def test_a_flow_that_was_killed_leaves_no_running_run_and_is_continued(project: Path, store: Store) -> None:
    before = {r.info.run_id for r in store.runs()}
    set_params(project / "params.yaml", {"train.seed": 1})
    with flow(project, store) as process:
        assert eventually(lambda: {r.info.run_id for r in store.runs()} - before, PATIENCE)
        (run_id,) = {r.info.run_id for r in store.runs()} - before
        assert eventually(lambda: len(store.points(run_id, "train/critic_total")) > 12, PATIENCE)
        process.kill()
        process.wait()
        assert store.client.get_run(run_id).info.status == "RUNNING"
    with flow(project, store) as process:
        end(process, project)
    assert {r.info.run_id for r in store.runs()} - before == {run_id}
    assert {r.info.status for r in store.runs()} == {"FINISHED"}
    check_curves(project, store.client, run_id)


def test_a_result_from_the_cache_is_a_complete_run(project: Path, store: Store) -> None:
    for old in store.runs():
        store.client.delete_run(old.info.run_id)
    set_params(project / "params.yaml", {"train.seed": 0})
    output = run(project, "-m", "flows.distill", MLFLOW_TRACKING_URI=store.url).stdout
    (restored,) = store.runs()
    assert restored.info.status == "FINISHED" and restored.info.run_id, output
    check_curves(project, store.client, restored.info.run_id)
    assert "ratio.fd.classifier" in restored.data.metrics
