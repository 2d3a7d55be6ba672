"""Presets, overrides and seeds change a run; they are checked before any work, and the run becomes an experiment."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from dvc.repo import Repo
from ruamel.yaml import YAML

from dmd.config import load_params
from dmd.errors import ConfigError, UserError
from flows.distill import main
from flows.pipeline.changes import change_file
from flows.pipeline.presets import list_presets, load_preset, make_variants
from flows.pipeline.worktrees import check_committed, save_experiment, temporary_worktree
from tests.helpers.params import set_params
from tests.helpers.projects import ROOT


def git(root: Path, *words: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@t"]
    done = subprocess.run(["git", *identity, *words], cwd=root, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def dvc(root: Path, *words: str) -> str:
    done = subprocess.run([sys.executable, "-m", "dvc", *words], cwd=root, check=True, capture_output=True, text=True)
    return done.stdout


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A repository with this project's parameters and a stage that copies one parameter; its path is not ASCII."""
    root = tmp_path / "das Prüfstück"
    (root / "experiments" / "presets").mkdir(parents=True)
    git(root, "init", "-q")
    Repo.init(str(root)).close()
    (root / ".gitignore").write_text("/runs/\n")
    (root / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    (root / "experiments" / "presets" / "more.yaml").write_text(
        "description: more turns\nchanges: {method.critic_turns: 7}\n"
    )
    YAML().dump(
        {"stages": {"one": {"cmd": "grep critic_turns params.yaml > out.txt", "outs": ["out.txt"]}}}, root / "dvc.yaml"
    )
    git(root, "add", "-A")
    git(root, "commit", "-qm", "one")
    return root


@pytest.mark.parametrize("name", list_presets(ROOT))
def test_every_preset_of_the_project_is_valid(name: str) -> None:
    assert load_preset(ROOT, name).description
    assert len(make_variants(ROOT, name, {}, [])) == 1


@pytest.mark.parametrize("name", list_presets(ROOT))
def test_a_preset_shares_its_batches_equally_and_says_whether_it_was_run(name: str, tmp_path: Path) -> None:
    (variant,) = make_variants(ROOT, name, {}, [])
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    change_file(variant.fill(ROOT), tmp_path / "params.yaml")
    cfg = load_params(tmp_path / "params.yaml").train
    share = cfg.processes * cfg.accumulate
    assert cfg.batch_size % share == cfg.generator_batch_size % share == 0
    assert not cfg.warm_start.turns or cfg.warm_start.batch_size % share == 0
    head = " ".join(
        (ROOT / "experiments" / "presets" / f"{name}.yaml")
        .read_text()
        .partition("description:")[0]
        .replace("#", "")
        .split()
    )
    assert name == "quick" or "Run:" in head or "Not yet run on hardware" in head


@pytest.mark.parametrize(("name", "gpus"), [("sd15", 64), ("sdxl", 64), ("imagenet64", 7), ("cifar10", 8)])
def test_a_warm_up_is_as_long_as_in_dmd2s_code(name: str, gpus: int) -> None:
    """Accelerate advances DMD2's schedule of 500 steps once per process, even in turns of the critic only."""
    changes = load_preset(ROOT, name).changes
    assert changes["train.warmup_turns"] == max(1, 500 // gpus // int(changes["method.critic_turns"]))


def test_a_path_that_only_the_user_knows_is_requested_before_any_work(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(project)
    monkeypatch.setattr("dmd.signals.signal.signal", lambda *_: None)
    text = "description: d\nneeds: {teacher.folder: a diffusers folder}\nchanges: {teacher.source: folder}\n"
    (project / "experiments" / "presets" / "own.yaml").write_text(text)
    (variant,) = make_variants(project, "own", {}, [])
    assert variant.missing == {"teacher.folder": "a diffusers folder"} and "teacher.folder" not in variant.changes
    assert main(["--preset", "own"]) == 2
    assert capsys.readouterr().err == "error: --set teacher.folder=PATH is needed: a diffusers folder\n"
    (variant,) = make_variants(project, "own", {"teacher.folder": str(project)}, [])
    assert not variant.missing and variant.fill(project) == variant.changes


def test_an_override_comes_after_the_preset_and_a_seed_after_both(project: Path) -> None:
    one, two = make_variants(project, "more", {"method.t_min": 0.1}, [0, 1])
    assert dict(one.changes) == {"method.critic_turns": 7, "train.seed": 0, "method.t_min": 0.1}
    assert one.experiment.startswith("more-seed0-") and two.experiment.startswith("more-seed1-")
    assert make_variants(project, None, {"method.critic_turns": 9}, [])[0].experiment.startswith("run-")
    assert make_variants(project, None, {}, []) == []
    change_file(one.changes, project / "params.yaml")
    params = load_params(project / "params.yaml")
    assert (params.method.critic_turns, params.train.seed, params.method.t_min) == (7, 0, 0.1)
    assert "# DMD2, section 4.2" in (project / "params.yaml").read_text()


def test_a_relative_path_that_git_does_not_track_is_of_the_users_folder(project: Path) -> None:
    """A worktree of the commit has no such folder, so its absolute path is used."""
    (project / "mine").mkdir()
    (project / "mine" / "x.png").touch()
    (variant,) = make_variants(project, None, {"data.folder": "mine", "data.source": "folder"}, [])
    assert variant.changes["data.folder"] == str(project / "mine")
    set_params(project / "params.yaml", {"data.folder": "mine", "data.source": "folder"})
    (variant,) = make_variants(project, None, {"method.critic_turns": 9}, [])
    assert variant.changes == {"method.critic_turns": 9, "data.folder": str(project / "mine")}
    subprocess.run(["git", "add", "mine"], cwd=project, check=True)
    (variant,) = make_variants(project, None, {"method.critic_turns": 9}, [])
    assert variant.changes == {"method.critic_turns": 9}


def test_mistakes_are_one_line_each_before_any_work(project: Path) -> None:
    for preset, overrides, words in (
        ("nope", {}, "there is no preset 'nope'; experiments/presets/ has more"),
        ("", {}, "there is no preset ''; experiments/presets/ has more"),
        (
            None,
            {"method.critic_turn": 1},
            r"turn: params.yaml has no such key; did you mean 'critic_turns'",
        ),
        (None, {"data.url": "https://x/${oc.env:SECRET}"}, r"data\.url: .* contains \$\{, which DVC would replace"),
        (None, {"metod.critic_turns": 1}, "no such key; did you mean 'method'"),
        (None, {"method.nothing.like.it": 1}, "no such key$"),
        (None, {"method": 1}, "method: 1 is not allowed; it is a group with the keys name, "),
        ("more", {"method.critic_turns": 0}, "preset more: method.critic_turns"),
    ):
        with pytest.raises(ConfigError, match=words):
            make_variants(project, preset, overrides, [])
    with pytest.raises(
        ConfigError, match=r"train\.seed: the seeds set it for each experiment; give it there, or leave"
    ):
        make_variants(project, "more", {"train.seed": 5}, [0, 1])
    assert make_variants(project, "more", {"train.seed": 5}, [])[0].changes["train.seed"] == 5
    with pytest.raises(ConfigError, match="seeds: 0, 1, 0: list each seed once"):
        make_variants(project, "more", {}, [0, 1, 0])
    (project / "experiments" / "presets" / "bad.yaml").write_text("changes: {a: 1}\n")
    with pytest.raises(ConfigError, match=r"bad\.yaml: description: field required"):
        load_preset(project, "bad")


def test_a_run_in_a_worktree_leaves_the_workspace_unchanged_and_becomes_an_experiment(project: Path) -> None:
    before = (project / "params.yaml").read_bytes()
    hook = project / ".git" / "hooks" / "post-checkout"  # it must not run in a worktree
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    (variant,) = make_variants(project, "more", {}, [])
    with temporary_worktree(project, check_committed(project)) as place:
        change_file(variant.changes, place / "params.yaml")
        dvc(place, "repro", "-q")
        save_experiment(place, variant.experiment)
    assert dvc(project, "exp", "list", "--name-only").split() == [variant.experiment]
    assert git(project, "status", "--porcelain") == "" and (project / "params.yaml").read_bytes() == before
    dvc(project, "exp", "apply", "-q", variant.experiment)
    assert "7" in (project / "out.txt").read_text()
    with pytest.raises(
        UserError,
        match=r"params\.yaml has uncommitted changes, .* or take them back \(git restore params\.yaml\)",
    ):
        check_committed(project)


def test_a_dry_run_prints_the_plan_without_any_work(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(project)
    monkeypatch.setattr("dmd.signals.signal.signal", lambda *_: None)
    dvc(project, "repro", "-q")
    git(project, "add", "-A")
    git(project, "commit", "-qm", "two")
    assert main(["--dry-run"]) == 0 and capsys.readouterr().out.split() == ["one", "unchanged"]
    assert main(["--dry-run", "--force", "one"]) == 0 and "one  runs" in capsys.readouterr().out
    assert main(["--dry-run", "--set", "method.critic_turns=3", "--seeds", "4"]) == 0
    out = capsys.readouterr().out
    assert "run-seed4-" in out and "(method.critic_turns 3, train.seed 4)" in out
    for word, message in (
        ("method.critic_turns", "--set method.critic_turns: write KEY=VALUE, such as method.critic_turns=10\n"),
        ("=1", "--set =1: write KEY=VALUE, such as method.critic_turns=10\n"),
        ("method.critic_turns=[1", "--set method.critic_turns=[1: not valid YAML: "),
        ("train.seed=2024-01-01", "overrides: train.seed: datetime.date(2024, 1, 1) is not allowed"),
    ):
        assert main(["--dry-run", "--set", word]) == 2
        err = capsys.readouterr().err
        assert err.startswith(f"error: {message}") and err.count("\n") == 1
    assert git(project, "worktree", "list").count("\n") == 0


@pytest.fixture
def pipeline(project: Path) -> Path:
    """The project with two stages named as in this project, where the second reads the output of the first."""
    stages = {
        "data": {"cmd": "mkdir d && grep size params.yaml > d/x", "params": ["data.size"], "outs": ["d"]},
        "train": {"cmd": "cp d/x out.txt", "deps": ["d"], "params": ["train.generator_turns"], "outs": ["out.txt"]},
    }
    YAML().dump({"stages": stages}, project / "dvc.yaml")
    dvc(project, "repro", "-q")
    git(project, "add", "-A")
    git(project, "commit", "-qm", "two")
    return project


def test_a_plan_says_what_a_run_would_need_and_writes_nothing(
    pipeline: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(pipeline)
    monkeypatch.setattr("dmd.signals.signal.signal", lambda *_: None)

    def files() -> dict[Path, int]:
        own = (p for p in pipeline.rglob("*") if p.is_file() and not {".git", "tmp", "runs"} & set(p.parts[-5:]))
        return {p: p.stat().st_mtime_ns for p in own}

    before = files()
    assert main(["--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "train  unchanged  generator trains on 284,800 images, critic on 54,400; writes 694 KiB" in out
    assert "memory of train, per CPU process: " in out and "time: none" in out
    assert main(["--dry-run", "--force", "train"]) == 0
    out = capsys.readouterr().out
    assert "\n  time: " in out and "CPU hours" in out and "  per image " in out
    assert main(["--dry-run", "--set", "train.generator_turns=600"]) == 0
    out = capsys.readouterr().out
    assert "data   unchanged" in out and "generator trains on 371,200 images, critic on 198,400" in out
    assert files() == before and git(pipeline, "status", "--porcelain") == ""


def test_the_plan_of_a_fresh_clone_has_every_stage(
    pipeline: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """The dvc.lock of a fresh clone names results that no local cache has."""
    monkeypatch.chdir(pipeline)
    monkeypatch.setattr("dmd.signals.signal.signal", lambda *_: None)
    shutil.rmtree(pipeline / ".dvc" / "cache")
    shutil.rmtree(pipeline / "d")
    (pipeline / "out.txt").unlink()
    assert main(["--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "  data   runs  " in out and "  train  runs  " in out and "time: none" not in out
    assert git(pipeline, "status", "--porcelain") == ""


def test_a_plan_ends_at_the_target(
    pipeline: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(pipeline)
    monkeypatch.setattr("dmd.signals.signal.signal", lambda *_: None)
    for changes in ([], ["--set", "data.size=12"]):
        assert main(["--dry-run", "--target", "data", "--force", "train", *changes]) == 0
        out = capsys.readouterr().out
        assert "data  " in out and "train" not in out and "time: none" in out
    assert main(["--dry-run", "--target", "train"]) == 0
    out = capsys.readouterr().out
    assert "  data   unchanged" in out and "  train  unchanged" in out and "memory of train" in out


def test_a_plan_reaches_beyond_stages_with_missing_outputs(
    pipeline: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """A worktree has no outputs, so DVC's own dry run fails at the stage after a changed one."""
    monkeypatch.chdir(pipeline)
    monkeypatch.setattr("dmd.signals.signal.signal", lambda *_: None)
    text = "description: d\nneeds: {teacher.folder: a teacher}\nchanges: {data.size: 12, teacher.source: folder}\n"
    (pipeline / "experiments" / "presets" / "own.yaml").write_text(text)
    assert main(["--dry-run", "--preset", "own"]) == 0
    out = capsys.readouterr().out
    assert "--set teacher.folder=PATH is needed: a teacher" in out
    assert "  data   runs  " in out and "  train  runs if its inputs change  " in out and "1,797 images of 144 B" in out
    assert "memory and time: unknown, teacher.folder is not set" in out
    trouble = subprocess.CompletedProcess([], 255, "", "WARNING: no room\nERROR: failed to reproduce 'train'\n")
    monkeypatch.setattr("flows.pipeline.dry_run.subprocess.run", lambda *_, **__: trouble)
    assert main(["--dry-run"]) == 1 and "DVC cannot tell which stages would run" in capsys.readouterr().err


@pytest.mark.parametrize("value", [{1: 2, "b": 3}, {(1, 2): 3}, {"a": {1: 2, "b": 3}}])
def test_a_group_that_json_cannot_hold_is_one_line(project: Path, value: object) -> None:
    with pytest.raises(ConfigError) as e:
        make_variants(project, None, {"train.betas": value}, [])  # type: ignore[dict-item]
    assert all(line.startswith("overrides: train.betas") for line in str(e.value).splitlines())


def test_a_long_text_is_no_path(project: Path) -> None:
    """A value is also looked up as an old path, and no file can have a name of 5,000 characters."""
    (variant,) = make_variants(project, None, {"data.caption": "x" * 5000}, [])
    assert variant.changes["data.caption"] == "x" * 5000
    with pytest.raises(ConfigError, match="there is no preset"):
        make_variants(project, "x" * 5000, {}, [])
