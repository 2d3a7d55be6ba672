"""A training that is started in Prefect's form can be watched in MLflow, also if its server is killed meanwhile."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from prefect.utilities.callables import parameter_schema

from flows.pipeline.flow import distill
from flows.services.access import login_link
from flows.services.processes import find_members
from tests.helpers.browser import chromium, visit
from tests.helpers.params import set_params
from tests.helpers.projects import commit, copy_of_the_project
from tests.helpers.servers import Ui, call, eventually, free_port
from tests.helpers.watched.curves import check_curves, read_points

pytestmark = [pytest.mark.slow, pytest.mark.long]
TURNS = 200  # enough to start a server again before the last one
PATIENCE = 480.0  # seconds until the training begins
SOON = 30.0  # seconds in which a turn is in MLflow
LAST_FIELD = parameter_schema(distill).properties["target"]["description"]  # text below the last field of the form


@pytest.fixture(scope="module")
def ports() -> dict[str, str]:
    return {"PREFECT_PORT": str(free_port()), "MLFLOW_PORT": str(free_port())}


@pytest.fixture(scope="module")
def ui(ports: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ui]:
    """The servers of `make up` for a project with a training of some length."""
    project = copy_of_the_project(tmp_path_factory.mktemp("form") / "project")
    changes = {"train.generator_turns": TURNS, "train.validate_every": 10, "train.checkpoint_every": 10}
    set_params(project / "params.yaml", changes)
    commit(project, "a training of some length")
    try:
        up = call(project, "up", **ports)
        assert up.returncode == 0, up.stdout + up.stderr
        yield Ui(project, int(ports["PREFECT_PORT"]))
    finally:
        call(project, "down", **ports)


def test_a_training_from_the_form_is_in_mlflow_within_seconds_and_loses_no_point(
    ui: Ui, ports: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", ui.token)
    url = f"http://127.0.0.1:{ports['MLFLOW_PORT']}"
    client = MlflowClient(url)

    def find_run() -> Any:
        experiments = [e.experiment_id for e in client.search_experiments()]
        return next(iter(client.search_runs(experiments)), None)

    with chromium() as browser:
        with visit(browser, ui.login) as view:
            view.page.goto(f"{ui.url}/deployments/deployment/{ui.deployment('workspace')}/run")
            view.page.get_by_text(LAST_FIELD).wait_for()
            view.page.get_by_role("button", name="Submit").click()
            run = eventually(find_run, PATIENCE)
            assert run, ui.ask("flow_runs/filter")
        run_id = run.info.run_id
        assert eventually(lambda: client.get_metric_history(run_id, "train/critic_total"), PATIENCE)
        first = client.get_metric_history(run_id, "train/critic_total")
        assert time.time() - min(point.timestamp for point in first) / 1000 < SOON
        assert eventually(lambda: client.list_artifacts(run_id, "pictures/training"), SOON)
        assert eventually(lambda: len(read_points(client, run_id, "train/critic_total")) > len(first), SOON)
        with visit(browser, login_link(url, ui.token)) as view:
            view.page.goto(f"{url}/#/experiments/{run.info.experiment_id}/runs/{run_id}/model-metrics")
            view.page.get_by_text("critic_total").first.wait_for(timeout=60_000)
            view.page.wait_for_timeout(4000)
            view.screenshot("mlflow-live-from-the-form", tmp_path)

        for member in find_members(ui.project / "runs/services", "mlflow"):
            member.kill()
        assert read_turn(ui.project) < TURNS, "the training was over before its server was killed"
        again = call(ui.project, "up", **ports)
        assert again.returncode == 0, again.stdout + again.stderr
        flow_run = ui.wait_for(None, "COMPLETED")
        with visit(browser, ui.login) as view:
            view.page.goto(f"{ui.url}/runs/flow-run/{flow_run['id']}")
            view.page.get_by_text("Completed").first.wait_for()
            view.screenshot("prefect-run-from-the-form", tmp_path)
    assert client.get_run(run_id).info.status == "FINISHED"
    check_curves(ui.project, client, run_id)
    keys = {artifact["key"] for artifact in ui.ask("artifacts/filter")}
    assert {"loss-curve", "last-picture", "mlflow-run"} <= keys


def read_turn(project: Path) -> int:
    """The number of turns in the live log of the training."""
    return sum(len(file.read_text().splitlines()) for file in (project / "runs/live").glob("*/train/train.jsonl"))
