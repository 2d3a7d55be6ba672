"""A checkpoint is bound to its code, parameters and inputs, and a damaged checkpoint is an error."""

import shutil
import subprocess
from pathlib import Path

import pytest

from dmd.errors import CheckpointError
from dmd.storage.checkpoint import Scratch, scratch_root
from tests.helpers.faults.damage import DAMAGES, do_damage


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hash no modules: that takes a second for each Scratch."""
    monkeypatch.setattr("dmd.storage.checkpoint.code_hash", lambda: "code")


def test_a_checkpoint_of_other_code_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DMD_SCRATCH", str(tmp_path))
    scratch = Scratch("train", {"lr": 1.0}, {})
    scratch.save({"step": 3})
    later = Scratch("train", {"lr": 1.0}, {})
    later.code = "changed"
    with pytest.raises(CheckpointError, match="DMD_RESUME=continue"):
        later.load()
    monkeypatch.setenv("DMD_RESUME", "continue")
    assert later.load() == {"step": 3}
    monkeypatch.setenv("DMD_RESUME", "fresh")
    assert later.load() is None and not later.checkpoints()


def test_other_parameters_or_inputs_have_another_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DMD_SCRATCH", str(tmp_path / "scratch"))
    data = tmp_path / "data"
    data.mkdir()
    (data / "a").write_text("1")
    folders = {
        Scratch("train", {"lr": 1.0}, {"data": data}).folder,
        Scratch("train", {"lr": 2.0}, {"data": data}).folder,
    }
    (data / "a").write_text("2")
    folders.add(Scratch("train", {"lr": 1.0}, {"data": data}).folder)
    assert len(folders) == 3


def test_scratch_of_a_temporary_worktree_lies_in_the_main_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    main, other = tmp_path / "main", tmp_path / "other"
    author = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    subprocess.run(["git", "init", "-q", str(main)], check=True)
    subprocess.run(["git", *author, "commit", "-q", "--allow-empty", "-m", "empty"], cwd=main, check=True)
    subprocess.run(["git", "worktree", "add", "-q", "--detach", str(other)], cwd=main, check=True)
    monkeypatch.delenv("DMD_SCRATCH", raising=False)
    for place in (main, other):
        monkeypatch.chdir(place)
        assert scratch_root() == main / "runs"
    monkeypatch.chdir(tmp_path)
    assert scratch_root() == tmp_path / "runs"


@pytest.mark.parametrize("keep_time", [True, False], ids=["same-time", "new-time"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
    damage: str, keep_time: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DMD_SCRATCH", str(tmp_path))
    other = Scratch("train", {"lr": 2.0}, {})
    other.save({"step": 99})
    scratch = Scratch("train", {"lr": 1.0}, {})
    for step in range(1, 4):
        scratch.save({"step": step})
    older, last = scratch.checkpoints()
    do_damage(damage, (last, other.checkpoints()[0]), keep_time)
    assert scratch.load() == {"step": 2}
    assert f"note: {last} is damaged" in capsys.readouterr().err
    assert scratch.checkpoints() == [older], "it would count as one of the two that are kept"
    scratch.save({"step": 3})
    assert scratch.load() == {"step": 3}


def test_a_checkpoint_of_another_run_with_its_checksum_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DMD_SCRATCH", str(tmp_path))
    one, two = (Scratch("train", {"lr": lr}, {}) for lr in (1.0, 2.0))
    one.save({"step": 1})
    two.save({"step": 2})
    two.save({"step": 3})
    shutil.copytree(one.folder, two.folder, dirs_exist_ok=True)
    assert two.load() == {"step": 3}
    two.checkpoints()[-1].unlink()
    with pytest.raises(CheckpointError, match=r"every checkpoint is damaged \(state-000001.pt\); set DMD_RESUME=fresh"):
        two.load()
    monkeypatch.setenv("DMD_RESUME", "fresh")
    assert two.load() is None and two.checkpoints() == []


def test_a_checkpoint_whose_writing_was_killed_is_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DMD_SCRATCH", str(tmp_path))
    scratch = Scratch("train", {}, {})
    scratch.save({"step": 1})
    (scratch.folder / "state-000002.pt").write_bytes(b"the checksum is missing")
    assert scratch.load() == {"step": 1}
    scratch.save({"step": 2})
    assert scratch.load() == {"step": 2}
