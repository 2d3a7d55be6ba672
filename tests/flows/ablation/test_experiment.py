"""A member is a DVC experiment with a reason for its failure, cleanup after a kill, and a single run in MLflow."""

import os
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest
from dvc.repo.experiments.refs import WORKSPACE_STASH

from evaluation.metrics.schema import write_model
from flows.ablation import experiment
from flows.ablation.experiment import MemberError
from flows.ablation.page import load_samples
from flows.ablation.plan import Member
from flows.ablation.runs import PARENT, publish_comparison, publish_member
from flows.registry.store import tracking_uri
from flows.runtime.git import git
from tests.helpers.projects import ROOT
from tests.helpers.reports import generator_measures, run_metrics

MEMBER = Member("row", 1, {"train.seed": 1}, "x-row-seed1-abc", "")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git repository with a commit."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for who in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{who}_NAME", "t")
        monkeypatch.setenv(f"GIT_{who}_EMAIL", "t@t")
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "p"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    return tmp_path


def make_experiment(root: Path, member: Member = MEMBER) -> None:
    """Write an experiment as `dvc exp run` does: a commit under refs/exps, with an unchanged workspace."""
    head = git(root, "rev-parse", "HEAD") or ""
    (root / "reports").mkdir()
    write_model(run_metrics(generator_measures({"a": 1.0}), {"a": 1.5}), root / "reports/metrics.json")
    (root / "reports/losses.csv").write_text("turn,generator_x_mean\n1,0.5\n2,0.25\n")
    (root / "reports/samples.png").write_bytes(b"\x89PNG\r\n")
    subprocess.run(["git", "add", "-A"], cwd=root, check=True)
    tree = git(root, "write-tree") or ""
    commit = git(root, "commit-tree", tree, "-p", head, "-m", "e") or ""
    assert git(root, "update-ref", f"refs/exps/{head[:2]}/{head[2:]}/{member.experiment}", commit) is not None
    subprocess.run(["git", "reset", "-q", "--hard"], cwd=root, check=True)


def test_files_are_read_from_the_experiment(project: Path) -> None:
    assert not experiment.exists(project, MEMBER)
    make_experiment(project)
    assert experiment.exists(project, MEMBER) and not (project / "reports").exists()
    assert experiment.read(project, MEMBER, Path("reports/samples.png")) == b"\x89PNG\r\n"  # to the byte
    assert experiment.read(project, MEMBER, Path("reports/none")) is None


def test_a_row_shows_the_samples_of_its_first_seed(project: Path) -> None:
    later = replace(MEMBER, seed=2, experiment="x-row-seed2-def")
    make_experiment(project)
    assert load_samples(project, [MEMBER, later]) == {MEMBER: b"\x89PNG\r\n"}
    assert load_samples(project, [later, MEMBER]) == {}  # the first seed has no samples


def fake_dvc(outcomes: list[tuple[int, list[str], Callable[[], None]]], commands: list[str]) -> Callable[..., int]:
    """A stand-in for run_streaming: call n logs the lines of outcome n, calls its function and returns its code."""

    def run_streaming(argv: Sequence[str], _cwd: Path, on_line: Callable[[str], None]) -> int:
        commands.append(" ".join(argv[3:]))
        code, lines, act = outcomes[len(commands) - 1]
        for line in lines:
            on_line(line)
        act()
        return code

    return run_streaming


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (["x", "error: train: seven", "ERROR: failed to reproduce 'train'", ""], "train: seven"),
        (["ERROR: failed to reproduce 'train'", "see the docs"], "failed to reproduce 'train'"),
        (["something", ""], "something"),
        ([], "DVC ended with exit code 3"),
    ],
)
def test_a_member_that_fails_has_a_reason(
    project: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str], reason: str
) -> None:
    commands: list[str] = []
    monkeypatch.setattr(experiment, "run_streaming", fake_dvc([(3, lines, lambda: None)], commands))
    with pytest.raises(MemberError) as caught:
        experiment.run(project, MEMBER, lambda _: None)
    assert str(caught.value) == reason
    assert commands == ["exp run --temp -n x-row-seed1-abc -S train.seed=1"]


def test_a_name_that_another_process_uses_first_makes_the_experiment_run_again(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes = [(0, [], lambda: None), (255, ["ERROR: already exists"], lambda: make_experiment(project))]
    commands: list[str] = []
    monkeypatch.setattr(experiment, "run_streaming", fake_dvc(outcomes, commands))
    experiment.run(project, MEMBER, lambda _: None)
    assert len(commands) == 2
    (project / ".git/refs/exps").rename(project / "gone")
    outcomes[:] = [(0, [], lambda: None)] * 2
    commands.clear()
    with pytest.raises(MemberError, match="without an error and without an experiment"):
        experiment.run(project, MEMBER, lambda _: None)


def test_the_remains_of_a_killed_experiment_are_removed(project: Path) -> None:
    standalone = project / ".dvc/tmp/exps/standalone"
    stale, used, fresh, other = (standalone / name for name in ("tmpa", "tmpb", "tmpc", "run"))
    for folder in (stale, used, fresh, other):
        folder.mkdir(parents=True)
    (stale / "file").write_text("1")
    for folder in (stale, used, other):
        os.utime(folder, (time.time() - 600,) * 2)
    git(project, "update-ref", WORKSPACE_STASH, "HEAD")
    at_work = subprocess.Popen(["sleep", "60"], cwd=used)
    try:
        experiment.remove_stale(project)
    finally:
        at_work.kill()
        at_work.wait()
    assert sorted(f.name for f in standalone.iterdir()) == ["run", "tmpb", "tmpc"]
    assert git(project, "rev-parse", "--verify", WORKSPACE_STASH) is None


def test_a_member_has_one_run_in_mlflow_also_after_a_kill(project: Path) -> None:
    make_experiment(project)
    publish_member(project, "x", MEMBER)
    client = mlflow.MlflowClient(tracking_uri(project))
    (where,) = [e.experiment_id for e in client.search_experiments() if e.name == "onestep"]
    (child,) = [r for r in client.search_runs([where]) if PARENT in r.data.tags]
    assert child.data.metrics["ratio.fd.a"] == 1.5 and child.data.params["train.seed"] == "0"
    assert [m.value for m in client.get_metric_history(child.info.run_id, "train.generator_x_mean")] == [0.5, 0.25]
    assert [f.path for f in client.list_artifacts(child.info.run_id, "pictures")] == ["pictures/samples.png"]
    # Imitate a kill while publishing: the process does not exist, and its run is still open.
    client.update_run(child.info.run_id, status="RUNNING")
    client.set_tag(child.info.run_id, "publisher.pid", "999999999")
    publish_member(project, "x", MEMBER)
    publish_member(project, "x", MEMBER)
    file = project / "x.md"
    file.write_text("table")
    parent = publish_comparison(project, "x", [file])
    runs = client.search_runs([where])
    assert {r.info.status for r in runs} == {"FINISHED"} and len(runs) == 2
    assert {r.data.tags.get(PARENT) for r in runs} == {None, parent}
    assert child.info.run_id not in {r.info.run_id for r in runs}
    assert [f.path for f in client.list_artifacts(parent, "comparison")] == ["comparison/x.md"]
