"""A checkpoint is bound to its code, parameters and inputs, and a damaged checkpoint is an error."""

import subprocess
from pathlib import Path

import pytest

from dmd.errors import CheckpointError
from dmd.storage.checkpoint import Scratch, scratch_root


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
    assert later.load() is None and not later.state_file.exists()


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


def test_a_damaged_checkpoint_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DMD_SCRATCH", str(tmp_path))
    scratch = Scratch("train", {}, {})
    scratch.state_file.write_bytes(b"PK not a checkpoint")
    with pytest.raises(CheckpointError, match=r"state.pt cannot be read .* delete it"):
        scratch.load()
