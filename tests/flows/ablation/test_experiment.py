"""A member is a DVC experiment with a reason for its failure, cleanup after a kill, and a single run in MLflow."""

import contextlib
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import pytest
from dvc.repo import Repo
from ruamel.yaml import YAML

from dmd.errors import ConfigError, UserError
from evaluation.metrics.schema import write_model
from evaluation.sources import mlflow_database
from flows.ablation import experiment
from flows.ablation import runs as members
from flows.ablation.experiment import MemberError
from flows.ablation.page import load_samples
from flows.ablation.plan import Member
from flows.ablation.runs import PARENT, publish_comparison, publish_member
from flows.pipeline.changes import change_file
from flows.pipeline.worktrees import check_same_commit
from flows.registry.result import EXPERIMENT
from flows.registry.store import tracking_uri
from flows.runtime.git import git, read_head
from flows.runtime.process import STOP, CommandStopped
from tests.helpers.params import set_params
from tests.helpers.projects import ROOT
from tests.helpers.registry.stores import copy_store
from tests.helpers.reports import generator_measures, run_metrics


def new_member(root: Path) -> Member:
    """A member of the present commit."""
    return Member("row", 1, {"train.seed": 1}, "x-row-seed1-abc", "", read_head(root))


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


def make_experiment(root: Path, member: Member) -> None:
    """Write an experiment as `dvc exp run` does: a commit under refs/exps, with an unchanged workspace."""
    head = member.commit
    (root / "reports").mkdir()
    change_file(member.changes, root / "params.yaml")
    write_model(run_metrics(generator_measures({"a": 1.0}), {"a": 1.5}), root / "reports/metrics.json")
    (root / "reports/losses.csv").write_text("turn,generator_x_mean\n1,0.5\n2,0.25\n")
    (root / "reports/samples.png").write_bytes(b"\x89PNG\r\n")
    subprocess.run(["git", "add", "-A"], cwd=root, check=True)
    tree = git(root, "write-tree") or ""
    commit = git(root, "commit-tree", tree, "-p", head, "-m", "e") or ""
    assert git(root, "update-ref", f"refs/exps/{head[:2]}/{head[2:]}/{member.experiment}", commit) is not None
    subprocess.run(["git", "reset", "-q", "--hard"], cwd=root, check=True)


def test_files_are_read_from_the_experiment(project: Path) -> None:
    assert not experiment.exists(project, new_member(project))
    make_experiment(project, new_member(project))
    assert experiment.exists(project, new_member(project)) and not (project / "reports").exists()
    assert experiment.read(project, new_member(project), Path("reports/samples.png")) == b"\x89PNG\r\n"  # to the byte
    assert experiment.read(project, new_member(project), Path("reports/none")) is None


def test_a_row_shows_the_samples_of_its_first_seed(project: Path) -> None:
    later = replace(new_member(project), seed=2, experiment="x-row-seed2-def")
    make_experiment(project, new_member(project))
    assert load_samples(project, [new_member(project), later]) == {new_member(project): b"\x89PNG\r\n"}
    assert load_samples(project, [later, new_member(project)]) == {}  # the first seed has no samples


ODD = {
    "data.caption": "une écriture de {name} \\ 'é' \"n\"\nthen: #1 \\n",
    "register.licence": "007",
    "register.experiment": "2026-11-29",
    "data.captions": "yes",
    "data.url": "1e-3",
    "evaluator.revision": "null",
    "method.normaliser_min": 1e-05,
    "train.seed": 1,
}
COPY = {
    "cmd": "mkdir -p reports && cp params.yaml reports/metrics.json",
    "metrics": [{"reports/metrics.json": {"cache": False}}],
}


@pytest.fixture
def pipeline(project: Path) -> Path:
    """The project with a stage that copies the parameters it runs with."""
    Repo.init(str(project)).close()
    YAML().dump({"stages": {"copy": COPY}}, project / "dvc.yaml")
    (project / ".gitignore").write_text("/runs/\n")
    for command in (["add", "-A"], ["commit", "-qm", "dvc"]):
        subprocess.run(["git", *command], cwd=project, check=True)
    return project


def test_a_member_runs_with_the_values_of_its_row_to_the_letter(pipeline: Path) -> None:
    member = replace(new_member(pipeline), changes=ODD)
    before = (pipeline / "params.yaml").read_bytes()
    experiment.run(pipeline, member, lambda _: None)
    for path in ("params.yaml", "reports/metrics.json"):
        ran = YAML(typ="safe").load(experiment.read(pipeline, member, Path(path)) or b"")
        values = {key: ran[key.split(".")[0]][key.split(".")[1]] for key in ODD}
        assert values == ODD and [type(v) for v in values.values()] == [type(v) for v in ODD.values()]
    assert experiment.exists(pipeline, member)
    assert not experiment.exists(pipeline, replace(member, changes={**ODD, "train.seed": 2}))
    assert (pipeline / "params.yaml").read_bytes() == before and git(pipeline, "worktree", "list", "--porcelain")


def test_an_experiment_with_other_values_is_an_error(pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiment, "change_file", lambda changes, file: change_file({**changes, "data.size": 9}, file))
    with pytest.raises(MemberError, match=r"x-row-seed1-abc: params\.yaml: data\.size: 8 became 9$"):
        experiment.run(pipeline, replace(new_member(pipeline), changes={"data.size": 8}), lambda _: None)


def test_a_commit_while_an_ablation_runs_changes_no_member(pipeline: Path) -> None:
    member, params = new_member(pipeline), pipeline / "params.yaml"
    text = params.read_text()
    set_params(params, {"method.critic_turns": 3, "register.experiment": "other"})
    subprocess.run(["git", "commit", "-qam", "other"], cwd=pipeline, check=True)
    experiment.run(pipeline, member, lambda _: None)
    assert experiment.exists(pipeline, member) and not experiment.exists(pipeline, new_member(pipeline))
    ran = YAML(typ="safe").load(experiment.read(pipeline, member, Path("reports/metrics.json")) or b"")
    assert ran["method"]["critic_turns"] == 5
    assert members._name_experiment(pipeline, member.commit) == "onestep"
    plan = YAML(typ="safe").load(text)
    with pytest.raises(
        UserError, match=r"has another commit or params\.yaml than when this command began; run it again"
    ):
        check_same_commit(pipeline, member.commit, plan)
    with pytest.raises(UserError, match="run it again"):
        check_same_commit(pipeline, read_head(pipeline), plan)
    check_same_commit(pipeline, read_head(pipeline), YAML(typ="safe").load(params))


@pytest.mark.parametrize("value", ["\x85x", "\ud800"])
def test_a_value_that_yaml_cannot_hold_is_refused(project: Path, value: str) -> None:
    before = (project / "params.yaml").read_bytes()
    with pytest.raises(ConfigError, match="YAML cannot hold this value"):
        change_file({"data.caption": value}, project / "params.yaml")
    assert (project / "params.yaml").read_bytes() == before


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
    def fail(_argv: Sequence[str], _cwd: Path, on_line: Callable[[str], None], env: object) -> int:
        for line in lines:
            on_line(line)
        return 3

    @contextlib.contextmanager
    def worktree(root: Path, _commit: str) -> Iterator[Path]:
        yield root

    monkeypatch.setattr(experiment, "run_streaming", fail)
    monkeypatch.setattr(experiment, "temporary_worktree", worktree)
    with pytest.raises(MemberError) as caught:
        experiment.run(project, new_member(project), lambda _: None)
    assert str(caught.value) == reason and not experiment.exists(project, new_member(project))


def test_a_stage_that_something_has_killed_runs_once_more(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A member of an ablation, or a trial of a search, does not fail for good because memory was short once."""
    codes, saved = [255, 0, 255, 255], list[str]()

    def repro(_argv: Sequence[str], _cwd: Path, on_line: Callable[[str], None], env: object) -> int:
        on_line("ERROR: failed to reproduce 'evaluator': exited with -9")
        return codes.pop(0)

    @contextlib.contextmanager
    def worktree(root: Path, _commit: str) -> Iterator[Path]:
        yield root

    monkeypatch.setattr(experiment, "run_streaming", repro)
    monkeypatch.setattr(experiment, "temporary_worktree", worktree)
    monkeypatch.setattr(experiment, "save_experiment", lambda _place, name, _target: saved.append(name))
    monkeypatch.setattr(experiment, "_find_difference", lambda *_: None)
    member, lines = new_member(project), list[str]()
    experiment.run(project, member, lines.append)
    assert saved == [member.experiment]
    assert lines[1] == "failed to reproduce 'evaluator': exited with -9; trying again"
    with pytest.raises(MemberError, match="exited with -9"):
        experiment.run(project, member, lines.append)
    assert not codes and len(saved) == 1


def test_a_member_whose_processes_a_scheduler_ends_has_not_failed(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slurm signals DVC and the flow at once: DVC is gone before its caller sees that the flow ends."""

    def end(*_args: object, **_more: object) -> int:
        STOP.set()
        return -10

    @contextlib.contextmanager
    def worktree(root: Path, _commit: str) -> Iterator[Path]:
        yield root

    monkeypatch.setattr(experiment, "run_streaming", end)
    monkeypatch.setattr(experiment, "temporary_worktree", worktree)
    try:
        with pytest.raises(CommandStopped):
            experiment.run(project, new_member(project), lambda _: None)
    finally:
        STOP.clear()


def test_the_parent_of_very_many_members_is_found() -> None:
    """MLflow answers with 1,000 runs, by default with the newest ones; the parent is the oldest of its ablation."""

    def new_run(name: str, tags: dict[str, str]) -> SimpleNamespace:
        return SimpleNamespace(info=SimpleNamespace(run_id=name), data=SimpleNamespace(tags=tags))

    found = [new_run("parent", {}), *(new_run(str(i), {EXPERIMENT: "e"}) for i in range(1500))]

    def search_runs(_ids: list[str], _query: str, order_by: Sequence[str] = ()) -> list[SimpleNamespace]:
        return (found if "attributes.start_time ASC" in order_by else found[::-1])[:1000]

    client: Any = SimpleNamespace(search_runs=search_runs)  # without `create_run`
    assert members._parent(members._Store(client, "1", {}), "x") == "parent"


@pytest.mark.slow
def test_a_member_has_one_run_in_mlflow_also_after_a_kill(project: Path, empty_store: Path) -> None:
    make_experiment(project, new_member(project))
    copy_store(empty_store, mlflow_database(project))
    publish_member(project, "x", new_member(project))
    client = mlflow.MlflowClient(tracking_uri(project))
    (where,) = [e.experiment_id for e in client.search_experiments() if e.name == "onestep"]
    (child,) = [r for r in client.search_runs([where]) if PARENT in r.data.tags]
    assert child.data.metrics["ratio.fd.a"] == 1.5 and child.data.params["train.seed"] == "1"
    assert [m.value for m in client.get_metric_history(child.info.run_id, "train/generator_x_mean")] == [0.5, 0.25]
    assert [f.path for f in client.list_artifacts(child.info.run_id, "pictures")] == ["pictures/samples.png"]
    # Imitate a kill while publishing: the process does not exist, and its run is still open.
    client.update_run(child.info.run_id, status="RUNNING")
    client.set_tag(child.info.run_id, "publisher.pid", "999999999")
    publish_member(project, "x", new_member(project))
    publish_member(project, "x", new_member(project))
    file = project / "x.md"
    file.write_text("table")
    parent = publish_comparison(project, "x", read_head(project), [file])
    runs = client.search_runs([where])
    assert {r.info.status for r in runs} == {"FINISHED"} and len(runs) == 2
    assert {r.data.tags.get(PARENT) for r in runs} == {None, parent}
    assert child.info.run_id not in {r.info.run_id for r in runs}
    assert [f.path for f in client.list_artifacts(parent, "comparison")] == ["comparison/x.md"]
