"""The Prefect UI after `make up`, in a real Chromium: its form starts a run, shows its end, and cancels another run."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page
from prefect.utilities.callables import parameter_schema

from flows.pipeline.flow import distill
from tests.helpers.browser import chromium, visit
from tests.helpers.params import set_params
from tests.helpers.projects import commit, copy_of_the_project
from tests.helpers.servers import Ui, call, free_port

pytestmark = pytest.mark.slow
# Each field of the form shows the description of its parameter.
DESCRIPTIONS = {name: field["description"] for name, field in parameter_schema(distill).properties.items()}


@pytest.fixture(scope="module")
def ui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ui]:
    project, port = copy_of_the_project(tmp_path_factory.mktemp("ui") / "project"), free_port()
    set_params(project / "params.yaml", {"teacher.steps": 40_000})  # long enough to be cancelled
    commit(project, "a long training")
    ports = {"PREFECT_PORT": str(port), "MLFLOW_PORT": str(free_port())}
    try:
        up = call(project, "up", **ports)
        assert up.returncode == 0, up.stdout + up.stderr
        yield Ui(project, port)
    finally:
        call(project, "down", **ports)


def submit(page: Page, target: str, overrides: str = "") -> None:
    """Fill in the form's last field, `target`, and `overrides` where there are any, and press the button."""
    page.get_by_text(DESCRIPTIONS["target"]).wait_for()
    if overrides:
        page.get_by_text("dict", exact=True).click()
        page.locator("textarea").last.fill(overrides)
    page.get_by_text("str", exact=True).last.click()
    page.locator("textarea").last.fill(target)
    page.get_by_role("button", name="Submit").click()


def test_a_run_is_started_through_the_form_and_another_is_cancelled(ui: Ui, tmp_path: Path) -> None:
    with chromium() as browser, visit(browser, ui.login) as view:
        page = view.page
        page.goto(f"{ui.url}/deployments", wait_until="networkidle")
        for name in ("workspace", "experiment", "ablation", "champion"):
            page.get_by_text(name, exact=True).first.wait_for()
        view.screenshot("prefect-deployments", tmp_path)
        form = f"{ui.url}/deployments/deployment/{ui.deployment('workspace')}/run"

        page.goto(form)
        page.get_by_text(DESCRIPTIONS["overrides"]).wait_for()
        submit(page, "pairs", '{"teacher.steps": 41}')
        run = ui.wait_for("pairs", "COMPLETED")
        assert run["parameters"]["overrides"] == {"teacher.steps": 41}
        assert run["state"]["message"].endswith(": data Ran, teacher Ran, encode Ran, pairs Ran")
        page.goto(f"{ui.url}/runs/flow-run/{run['id']}")
        page.get_by_text("Completed").first.wait_for()
        page.get_by_text("Task Runs").last.click()
        tasks = page.locator(".task-run-list-item .state-list-item--completed .state-list-item__name")
        tasks.nth(3).wait_for()
        assert tasks.all_inner_texts() == ["pairs", "encode", "teacher", "data"]  # the latest first
        view.screenshot("prefect-run", tmp_path)
        assert ui.completed_tasks(run["id"]) == ["data", "teacher", "encode", "pairs"]

        page.goto(form)
        submit(page, "teacher")
        deadline = time.monotonic() + 180
        while not ui.stages() and time.monotonic() < deadline:
            time.sleep(0.5)
        assert ui.stages()
        page.goto(f"{ui.url}/runs/flow-run/{ui.wait_for('teacher', 'RUNNING')['id']}")
        page.get_by_role("button", name="Cancel").click()
        page.get_by_role("button", name="Confirm").click()
        start = time.monotonic()
        while ui.stages() and time.monotonic() - start < 60:
            time.sleep(0.2)
        assert time.monotonic() - start < 30 and not ui.stages()
        ui.wait_for("teacher", "CANCELLED")
        view.screenshot("prefect-cancelled", tmp_path)
    assert not (ui.project / "artifacts/teacher").exists()


def test_a_schedule_of_every_minute_fires(ui: Ui, tmp_path: Path) -> None:
    """The schedule is set in the UI; its first run starts within minutes and is then cancelled with the schedule."""
    deployment = ui.deployment("workspace")
    with chromium() as browser, visit(browser, ui.login) as view:
        page = view.page
        page.goto(f"{ui.url}/deployments/deployment/{deployment}")
        page.get_by_role("button", name="Schedule", exact=True).click()
        form = page.locator(".p-modal")
        form.locator("input[type=number]").first.fill("1")
        form.get_by_role("button", name="Save").click()
        page.get_by_text("Every minute").wait_for()
        view.screenshot("prefect-schedule", tmp_path)

        def scheduled_runs() -> list[dict[str, Any]]:
            own = {"deployment_id": {"any_": [deployment]}, "state": {"type": {"any_": ["RUNNING"]}}}
            return [run for run in ui.ask("flow_runs/filter", flow_runs=own) if run["auto_scheduled"]]

        deadline = time.monotonic() + 240
        while not scheduled_runs() and time.monotonic() < deadline:
            time.sleep(0.5)
        (run,) = scheduled_runs()
        assert run["created_by"]["type"] == "SCHEDULE"
        page.locator(".p-toggle__control--checked").click()  # stop the schedule
        page.goto(f"{ui.url}/runs/flow-run/{run['id']}")
        page.get_by_text("Running").first.wait_for()
        view.screenshot("prefect-scheduled-run", tmp_path)
        page.get_by_role("button", name="Cancel").click()
        page.get_by_role("button", name="Confirm").click()
        while ui.history(run["id"])[-1]["type"] != "CANCELLED" and time.monotonic() < deadline:
            time.sleep(0.5)
        assert ui.history(run["id"])[-1]["type"] == "CANCELLED"
