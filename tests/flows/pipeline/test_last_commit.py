"""Experiments start from the last commit, with or without what has changed since."""

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from dmd.errors import UserError
from flows.distill import main
from flows.pipeline.presets import make_variants
from flows.pipeline.request import read_request
from flows.pipeline.worktrees import check_committed, find_uncommitted
from tests.helpers.params import set_params
from tests.helpers.projects import ROOT
from tests.helpers.toy_graph import commit

CHANGE = {"method.t_min": 0.1}


@pytest.fixture
def project(toy: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A committed project whose params.yaml has then been changed, as `dvc exp apply` does."""
    shutil.copy(ROOT / "params.yaml", toy)
    (toy / ".gitignore").write_text("/runs/\n/mine/\n")
    commit(toy)
    (toy / "mine").mkdir()
    set_params(toy / "params.yaml", {"method.critic_turns": 9, "data.source": "folder", "data.folder": "mine"})
    monkeypatch.chdir(toy)
    monkeypatch.setattr("dmd.signals.signal.signal", lambda *_: None)
    return toy


def test_a_run_is_refused_with_the_remedies(project: Path) -> None:
    request = read_request(project, None, CHANGE, [], [], None)
    with pytest.raises(UserError, match=r"params\.yaml has uncommitted changes, such as .*\(--from-commit\)$"):
        request.find_commit()


def test_uncommitted_changes_are_left_out_on_request(project: Path) -> None:
    request = read_request(project, None, CHANGE, [], [], None, from_commit=True)
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=project, check=True, capture_output=True, text=True).stdout
    assert request.find_commit() == head.strip()
    (variant,) = request.variants
    assert variant.changes == CHANGE
    (params,) = request._list_params()
    assert (params.method.critic_turns, params.data.folder, params.method.t_min) == (5, "none", 0.1)
    (carried,) = make_variants(project, None, CHANGE, [])
    assert carried.changes == {**CHANGE, "data.folder": str(project / "mine")}


@pytest.mark.parametrize("name", ["a b é.txt", "b.txt"])
@pytest.mark.parametrize("change", ["edited", "staged", "renamed"])
def test_the_file_that_has_changed_is_named_whole(toy: Path, name: str, change: str) -> None:
    old = toy / ("o l d.txt" if change == "renamed" else name)
    old.write_text("one line\n" * 9)
    commit(toy)
    assert find_uncommitted(toy) is None
    if change == "renamed":
        subprocess.run(["git", "mv", old.name, name], cwd=toy, check=True)
    else:
        (toy / name).write_text("another\n")
    if change == "staged":
        subprocess.run(["git", "add", "-A"], cwd=toy, check=True)
    assert find_uncommitted(toy) == name
    with pytest.raises(UserError) as e:
        check_committed(toy)
    assert str(e.value).endswith(f"(git restore {shlex.quote(name)})")


@pytest.mark.parametrize("text", ["a: [", "- a", "a: \xff"])
def test_a_mistake_in_the_last_commit_is_one_line(project: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    whole = (project / "params.yaml").read_text()
    (project / "params.yaml").write_bytes(text.encode("latin-1"))
    commit(project)
    (project / "params.yaml").write_text(whole)
    for words in (["--dry-run", "--set", "method.t_min=0.1"], ["--from-commit", "--set", "method.t_min=0.1"]):
        assert main(words) == 2
        err = capsys.readouterr().err
        assert err.startswith("error: params.yaml of the last commit") and "correct the file and commit it" in err
        assert err.count("\n") == 1
    assert main(["--dry-run"]) == 0  # it is the plan of the folder


def test_a_run_in_the_folder_itself_leaves_nothing_out(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--from-commit"]) == 2
    assert capsys.readouterr().err.startswith("error: --from-commit: only runs with --preset, --set or --seeds ")


def test_a_plan_of_an_experiment_is_that_of_the_last_commit(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--dry-run", "--set", "method.t_min=0.1"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("note: params.yaml has uncommitted changes; this is the plan of the last commit")
    assert "(method.t_min 0.1)" in out and "values of digits" not in out
