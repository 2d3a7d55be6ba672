"""Changes of a run: from presets, overrides and seeds, checked before any work, and the experiment they become."""

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from dvc.repo import Repo
from ruamel.yaml import YAML

from dmd.config import load_params
from dmd.errors import ConfigError, UserError
from flows.distill import main
from flows.presets import apply, known, load_preset, variants
from flows.worktrees import check_committed, save_experiment, worktree


def git(root: Path, *words: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@t"]
    done = subprocess.run(["git", *identity, *words], cwd=root, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def dvc(root: Path, *words: str) -> str:
    done = subprocess.run([sys.executable, "-m", "dvc", *words], cwd=root, check=True, capture_output=True, text=True)
    return done.stdout


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A repository with this project's parameters and a stage that copies one of them."""
    root = tmp_path / "project"
    (root / "presets").mkdir(parents=True)
    git(root, "init", "-q")
    Repo.init(str(root)).close()
    (root / ".gitignore").write_text("/runs/\n")
    (root / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    (root / "presets" / "more.yaml").write_text("description: more turns\nchanges: {method.critic_turns: 7}\n")
    YAML().dump(
        {"stages": {"one": {"cmd": "grep critic_turns params.yaml > out.txt", "outs": ["out.txt"]}}}, root / "dvc.yaml"
    )
    git(root, "add", "-A")
    git(root, "commit", "-qm", "one")
    return root


@pytest.mark.parametrize("name", known(ROOT))
def test_every_preset_of_the_project_is_valid(name: str) -> None:
    assert load_preset(ROOT, name).description
    assert len(variants(ROOT, name, {}, [])) == 1


def test_an_override_comes_after_the_preset_and_a_seed_after_both(project: Path) -> None:
    one, two = variants(project, "more", {"train.seed": 5, "method.t_min": 0.1}, [0, 1])
    assert dict(one.changes) == {"method.critic_turns": 7, "train.seed": 0, "method.t_min": 0.1}
    assert one.experiment.startswith("more-seed0-") and two.experiment.startswith("more-seed1-")
    assert variants(project, None, {"method.critic_turns": 9}, [])[0].experiment.startswith("run-")
    assert variants(project, None, {}, []) == []
    apply(one.changes, project / "params.yaml")
    params = load_params(project / "params.yaml")
    assert (params.method.critic_turns, params.train.seed, params.method.t_min) == (7, 0, 0.1)
    assert "# critic turns per generator turn" in (project / "params.yaml").read_text()


def test_mistakes_are_one_line_each_before_any_work(project: Path) -> None:
    for preset, overrides, words in (
        ("nope", {}, "there is no preset 'nope'; presets/ has more"),
        (None, {"method.critic_turn": 1}, "overrides: method.critic_turn: params.yaml has no such key"),
        ("more", {"method.critic_turns": 0}, "preset more: method.critic_turns"),
    ):
        with pytest.raises(ConfigError, match=words):
            variants(project, preset, overrides, [])
    (project / "presets" / "bad.yaml").write_text("changes: {a: 1}\n")
    with pytest.raises(ConfigError, match=r"bad\.yaml: description: field required"):
        load_preset(project, "bad")


def test_a_run_elsewhere_leaves_the_workspace_alone_and_becomes_an_experiment(project: Path) -> None:
    before = (project / "params.yaml").read_bytes()
    (variant,) = variants(project, "more", {}, [])
    with worktree(project, check_committed(project)) as place:
        apply(variant.changes, place / "params.yaml")
        dvc(place, "repro", "-q")
        save_experiment(place, variant.experiment)
    assert dvc(project, "exp", "list", "--name-only").split() == [variant.experiment]
    assert git(project, "status", "--porcelain") == "" and (project / "params.yaml").read_bytes() == before
    dvc(project, "exp", "apply", "-q", variant.experiment)
    assert "7" in (project / "out.txt").read_text()
    with pytest.raises(UserError, match=r"commit your changes first, .*: params\.yaml"):
        check_committed(project)


def test_a_plan_is_told_without_work(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(project)
    monkeypatch.setattr("flows.command.signal.signal", lambda *_: None)
    dvc(project, "repro", "-q")
    git(project, "add", "-A")
    git(project, "commit", "-qm", "two")
    assert main(["--dry-run"]) == 0 and capsys.readouterr().out.split() == ["one", "unchanged"]
    assert main(["--dry-run", "--force", "one"]) == 0 and "one  runs" in capsys.readouterr().out
    assert main(["--dry-run", "--set", "method.critic_turns=3", "--seeds", "4"]) == 0
    said = capsys.readouterr().out
    assert "run-seed4-" in said and "(method.critic_turns 3, train.seed 4)" in said
    assert main(["--dry-run", "--set", "method.critic_turns"]) == 2
    assert (
        capsys.readouterr().err == "error: --set method.critic_turns: write KEY=VALUE, such as method.critic_turns=10\n"
    )
    assert git(project, "worktree", "list").count("\n") == 0
