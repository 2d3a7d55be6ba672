"""`dvc plots` with the project's templates, in a browser without network."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from dvc_render.vega import VegaRenderer

from evaluation.metrics.schema import Metrics
from evaluation.report.quality import quality_table, write_quality
from tests.helpers.browser import Visit, chromium, visit
from tests.helpers.projects import ROOT
from tests.helpers.reports import generator_measures, report_metrics

TEMPLATES = ROOT / ".dvc"
CHARTS = 5  # in dvc.yaml: two of quality, two of training, the teacher's loss


def run(project: Path, *words: str) -> str:
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    env |= {f"GIT_{who}_{what}": "a@b.c" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    done = subprocess.run(words, cwd=project, env=env, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def metrics() -> Metrics:
    return report_metrics()


@pytest.fixture
def project(tmp_path: Path, metrics: Metrics) -> Path:
    """A repository with the real dvc.yaml and templates, and with small results."""
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    run(tmp_path, "git", "init", "-q")
    run(tmp_path, sys.executable, "-m", "dvc", "init", "-q")
    shutil.copy(TEMPLATES / "config", tmp_path / ".dvc")
    for name in ("plots", "offline"):
        shutil.copytree(TEMPLATES / name, tmp_path / ".dvc" / name, dirs_exist_ok=True)
    write_quality(results(metrics, 0.8), tmp_path / "reports/quality.csv", tmp_path / "reports/plots")
    for name in ("samples.png", "losses.csv", "teacher_losses.csv"):
        shutil.copy(ROOT / "reports" / name, tmp_path / "reports")
    run(tmp_path, "git", "add", "-A")
    run(tmp_path, "git", "commit", "-qm", "one")
    write_quality(results(metrics, 0.4), tmp_path / "reports/quality.csv", tmp_path / "reports/plots")
    return tmp_path


def results(metrics: Metrics, student: float) -> Metrics:
    """Metrics with the extractors that every run has and the given FD of the student."""
    renamed = Metrics.model_validate_json(metrics.model_dump_json().replace('"clip"', '"evaluator"'))
    renamed.student = generator_measures({"evaluator": student, "classifier": 2 * student}, half=0.1)
    return renamed


def wait_for_charts(view: Visit) -> list[dict[str, float]]:
    """Wait until Vega has drawn every chart, and return the pictures of the page."""
    view.page.wait_for_function("n => document.querySelectorAll('canvas').length == n", arg=CHARTS, timeout=60_000)
    return view.pictures()


@pytest.mark.slow
def test_plots_are_drawn_without_network(project: Path, tmp_path: Path) -> None:
    """Every chart and picture of `show` and `diff` has content, and no request leaves the machine."""
    dvc = (sys.executable, "-m", "dvc", "plots")
    run(project, *dvc, "show", "-o", "shown")
    run(project, *dvc, "diff", "HEAD", "-o", "compared")
    with chromium() as browser:
        for folder, images in (("shown", 3), ("compared", 6)):
            with visit(browser, (project / folder / "index.html").as_uri()) as view:
                pictures = wait_for_charts(view)
                assert len(pictures) == CHARTS + images and all(p["own"] > 100 for p in pictures), pictures
                assert all(url.startswith("file://") for url in view.requests) and view.errors == []
                view.screenshot(f"dvc-plots-{folder}", tmp_path)


@pytest.mark.slow
def test_a_diff_holds_both_students_and_draws_no_empty_cell(project: Path) -> None:
    words = ("plots", "diff", "HEAD", "--json", "-o", "out")
    charts = json.loads(run(project, sys.executable, "-m", "dvc", *words))["data"]
    (chart,) = charts["reports/quality.csv"]
    spec = json.loads(chart["content"]) if isinstance(chart["content"], str) else chart["content"]
    students = {row["rev"]: float(row["fd_evaluator"]) for row in spec["data"]["values"] if row["kind"] == "student"}
    assert students == {"workspace": 0.4, "HEAD": 0.8}
    assert "datum['fd_evaluator_low']" in json.dumps(spec) and "DVC_METRIC" not in json.dumps(spec)


def test_the_page_holds_the_versions_that_dvc_requests() -> None:
    page = (TEMPLATES / "offline/page.html").read_text()
    versions = re.findall(r"npm/(vega[\w-]*@[\d.]+)", VegaRenderer.SCRIPTS)
    script = (ROOT / "scripts/vega_page.sh").read_text()
    assert len(versions) == 3 and re.findall(r"<!-- (\S+), licence", page) == versions and " ".join(versions) in script
    assert "cdn" not in page and "<script src" not in page
    for name in (w.partition("@")[0] for w in versions):
        assert "Redistribution and use" in (TEMPLATES / f"offline/LICENSE.{name}").read_text()


def test_the_table_and_the_charts_hold_the_same_figures(metrics: Metrics, tmp_path: Path) -> None:
    write_quality(metrics, tmp_path / "q.csv", tmp_path / "plots")
    first = {p.name: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    write_quality(metrics, tmp_path / "q.csv", tmp_path / "plots")
    assert first == {p.name: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    assert set(first) == {"q.csv", "fd_clip.svg", "fd_classifier.svg"}
    table = pd.read_csv(tmp_path / "q.csv").set_index("name")
    assert table["nfe"].dropna().tolist() == [10, 25, 50, 100, 1] and not [c for c in table if "second" in c]
    assert table.loc["student", ["fd_clip", "fd_clip_low", "fd_clip_high"]].tolist() == pytest.approx([0.84, 0.8, 0.88])
    assert (
        table.loc["teacher DDIM 10", "precision_clip"] == 0.81 and table.loc["real held-out", "precision_clip"] == 0.9
    )
    assert b"student 0.84" in first["fd_clip.svg"] and b"var(" not in first["fd_clip.svg"]
    assert quality_table(metrics).shape == (6, 3 + 5 * 2)
