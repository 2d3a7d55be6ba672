"""The MLflow run of a member exists from its start, shows its training, and ends with it."""

import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from dvc.repo import Repo
from mlflow import MlflowClient
from ruamel.yaml import YAML

from evaluation.metrics.schema import write_model
from evaluation.sources import mlflow_database
from flows.ablation import experiment, live
from flows.ablation.experiment import MemberError
from flows.ablation.plan import Member
from flows.ablation.runs import PARENT, begin, drop_members, publish_member
from flows.live import reporter
from flows.live.spool import list_unsettled
from flows.registry.store import tracking_uri
from flows.runtime.git import read_head
from tests.helpers.projects import ROOT
from tests.helpers.registry.stores import copy_store
from tests.helpers.reports import generator_measures, run_metrics
from tests.helpers.servers import eventually
from tests.helpers.watched.runs import Notes, history

# The stage waits for a word, so that the test can look at the run before its end.
WORK = """
import os, shutil, sys, time
from pathlib import Path
from dmd.progress import LiveLog
LiveLog("train").write(1, {"loss": 0.5})
go = Path(os.environ["GO"])
while not go.exists():
    time.sleep(0.1)
if go.read_text() == "fail":
    sys.exit("error: train: no memory")
Path("reports").mkdir(exist_ok=True)
shutil.copy("metrics.json", "reports/metrics.json")
Path("reports/losses.csv").write_text("turn,loss\\n1,0.5\\n2,0.25\\n")
"""
TRAIN = {
    "cmd": "python work.py",
    "params": ["train"],
    "metrics": [{"reports/metrics.json": {"cache": False}}],
    "plots": [{"reports/losses.csv": {"cache": False}}],
}

pytestmark = [pytest.mark.slow, pytest.mark.long]  # it waits for real runs, which a busy machine delays


@pytest.fixture
def project(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with a stage that hands over a row and waits for a word in the file of $GO."""
    root = tmp_path / "project"
    root.mkdir()
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for who in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{who}_NAME", "t")
        monkeypatch.setenv(f"GIT_{who}_EMAIL", "t@t")
    monkeypatch.setenv("GO", str(tmp_path / "go"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(reporter, "INTERVAL", 0.05)
    monkeypatch.setattr(live, "LiveArtifacts", lambda _root: Notes())  # there is no Prefect server
    (root / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    write_model(run_metrics(generator_measures({"a": 1.0}), {"a": 1.5}), root / "metrics.json")
    (root / "work.py").write_text(WORK)
    (root / ".gitignore").write_text("/runs/\n")
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    Repo.init(str(root)).close()
    YAML().dump({"stages": {"train": TRAIN}}, root / "dvc.yaml")
    for command in (["add", "-A"], ["commit", "-qm", "p"]):
        subprocess.run(["git", *command], cwd=root, check=True)
    copy_store(empty_store, mlflow_database(root))
    return root


def new_member(root: Path) -> Member:
    """A member of the present commit."""
    return Member("row", 1, {"train.seed": 1}, "x-row-seed1-abc", "", read_head(root))


def children(root: Path) -> dict[str, Any]:
    """The runs of members, by their id."""
    client = MlflowClient(tracking_uri(root))
    where = [e.experiment_id for e in client.search_experiments() if e.name == "onestep"]
    return {run.info.run_id: run for run in client.search_runs(where) if PARENT in run.data.tags} if where else {}


def watch_until_a_row_came(root: Path, word: str) -> tuple[str, Exception | None]:
    """Run the member; say the word once its run shows the first row. Returns the run and the member's error."""
    lines: list[str] = []
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(live.run_watched, root, "x", new_member(root), lines.append)
        try:
            came = eventually(lambda: [r for r in children(root) if history(root, r) == [(1, 0.5)]] or done.done(), 120)
            assert came is not True, (done.exception(), lines)
            (run,) = children(root)
            assert children(root)[run].info.status == "RUNNING"
        finally:
            (root.parent / "go").write_text(word)
        return run, done.exception()  # type: ignore[return-value]


def test_a_member_is_watched_and_completed_from_its_experiment(project: Path) -> None:
    run, error = watch_until_a_row_came(project, "on")
    assert error is None and experiment.exists(project, new_member(project))
    (found,) = children(project).values()
    name, parent = new_member(project).experiment, begin(project, "x", read_head(project))[PARENT]
    assert (found.info.run_id, found.info.status, found.info.run_name) == (run, "FINISHED", name)
    assert found.data.tags[PARENT] == parent and found.data.metrics["ratio.fd.a"] == 1.5
    assert "**Outcome:**" in found.data.tags["mlflow.note.content"] and found.data.params["train.seed"] == "1"
    assert history(project, run) == [(1, 0.5), (2, 0.25)]  # from the record; no point twice
    assert not list_unsettled(project)
    publish_member(project, "x", new_member(project))
    assert list(children(project)) == [run]
    drop_members(project, "x", [new_member(project)])
    assert not children(project)


def test_the_run_of_a_member_that_fails_has_failed_and_is_continued(project: Path) -> None:
    failed, error = watch_until_a_row_came(project, "fail")
    assert isinstance(error, MemberError) and str(error) == "train: no memory"
    assert [run.info.status for run in children(project).values()] == ["FAILED"]
    (project.parent / "go").write_text("on")
    live.run_watched(project, "x", new_member(project), lambda _: None)
    assert [(run.info.run_id, run.info.status) for run in children(project).values()] == [(failed, "FINISHED")]


def test_a_member_runs_without_a_server(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    (project.parent / "go").write_text("on")
    lines: list[str] = []
    live.run_watched(project, "x", new_member(project), lines.append)
    assert experiment.exists(project, new_member(project)) and any("can't be watched" in line for line in lines)
