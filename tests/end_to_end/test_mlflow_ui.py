"""MLflow's pages in a real Chromium show and compare two versions that the pipeline has registered."""

import re
from pathlib import Path

import pytest
from playwright.sync_api import Page

from tests.helpers.browser import chromium, visit
from tests.helpers.projects import copy_of_the_project, run
from tests.helpers.servers import call, free_port

NAME = "digits-one-step"
PATIENCE = 60_000  # milliseconds


def rows(page: Page) -> dict[str, list[str]]:
    """The rows of the comparison page: name -> values."""
    cells = page.locator("tr").evaluate_all("rows => rows.map(r => [...r.children].map(c => c.innerText.trim()))")
    return {name: values for name, *values in (row for row in cells if row)}


@pytest.mark.slow
@pytest.mark.long
def test_two_versions_are_opened_and_compared_with_their_metrics_and_pictures(tmp_path: Path) -> None:
    project = copy_of_the_project(tmp_path / "project")
    run(project, "-m", "flows.distill", "--seeds", "0", "1")
    ports = {"PREFECT_PORT": str(free_port()), "MLFLOW_PORT": str(free_port())}
    url = f"http://127.0.0.1:{ports['MLFLOW_PORT']}"
    try:
        up = call(project, "up", **ports)
        assert up.returncode == 0, up.stdout + up.stderr
        with chromium() as browser, visit(browser, f"{url}/#/models/{NAME}") as view:
            page = view.page
            page.get_by_text("Version 2").first.wait_for(timeout=PATIENCE)
            _, first, second = page.locator("input[type=checkbox]").all()  # the first checkbox selects all
            first.click()
            second.click()
            page.get_by_test_id("compareButton").click()
            page.get_by_text("Comparing 2 Versions").wait_for(timeout=PATIENCE)
            page.get_by_text("ratio.fd.classifier").first.wait_for(timeout=PATIENCE)
            table = rows(page)
            assert table["Model Version:"] == ["1", "2"] and table["train.seed"] == ["0", "1"]
            assert len(set(table["ratio.fd.classifier"])) == len(set(table["student.fd.evaluator"])) == 2
            view.screenshot("mlflow-compare", tmp_path)
            for number in (1, 2):
                page.goto(f"{url}/#/models/{NAME}/versions/{number}")
                page.get_by_text(f"Version {number}", exact=True).first.wait_for(timeout=PATIENCE)
                source = page.locator("a[href*='/runs/']").first
                source.wait_for(timeout=PATIENCE)
                assert page.get_by_text("Measures").first.is_visible()  # a heading of the model card
                view.screenshot(f"mlflow-version-{number}", tmp_path)
                href = source.get_attribute("href") or ""
                assert re.search(r"/experiments/\d+/runs/\w+", href)
                page.goto(f"{url}/{href}/artifacts/pictures/samples.png")
                picture = page.locator("img[src^='blob:'], img[src*='samples.png']").first
                picture.wait_for(timeout=PATIENCE)
                assert picture.evaluate("e => e.complete && e.naturalWidth > 300")
                view.screenshot(f"mlflow-pictures-{number}", tmp_path)
    finally:
        call(project, "down", **ports)
