"""A checkpoint is bound to its code, parameters and inputs, and a damaged checkpoint is an error."""

import math
import shutil
import subprocess
from concurrent.futures import wait
from pathlib import Path
from threading import Event

import pytest
import torch

from dmd.errors import CheckpointError
from dmd.storage.checkpoint import Scratch
from dmd.storage.row_log import RowLog
from dmd.storage.scratch import scratch_root
from dmd.storage.seal import write_seal
from tests.helpers.faults.damage import DAMAGES, do_damage, swap


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hash no modules: that takes a second for each Scratch."""
    monkeypatch.setattr("dmd.storage.checkpoint.code_hash", lambda: "code")


def save(scratch: Scratch, step: int, is_periodic: bool = True) -> None:
    """Write a checkpoint with one row."""
    scratch.save({"step": step}, [{"step": step}], is_periodic)
    scratch.wait()


def test_a_checkpoint_of_other_code_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DMD_SCRATCH", str(tmp_path))
    scratch = Scratch("train", {"lr": 1.0}, {})
    save(scratch, 3)
    later = Scratch("train", {"lr": 1.0}, {})
    later.code = "changed"
    with pytest.raises(CheckpointError, match="DMD_RESUME=continue"):
        later.load()
    monkeypatch.setenv("DMD_RESUME", "continue")
    assert later.load() == {"step": 3}
    monkeypatch.setenv("DMD_RESUME", "fresh")
    assert later.load() is None and not later.checkpoints()


def test_of_several_processes_the_main_one_alone_discards(scratch: Scratch, monkeypatch: pytest.MonkeyPatch) -> None:
    """The main process may have saved before another one loads; and two may start at once, which is no error."""
    monkeypatch.setenv("DMD_RESUME", "fresh")
    save(scratch, 3)
    other = Scratch.at(scratch.root, scratch.run, scratch.code)
    with monkeypatch.context() as patch:
        patch.setattr("dmd.storage.checkpoint.shutil.rmtree", lambda *_, **__: None)  # another one has made it anew
        scratch.start()
    scratch.start()
    assert scratch.load(starts=False) is None
    save(scratch, 1)
    assert other.load(starts=False) == {"step": 1}


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
    save(other, 99)
    scratch = Scratch("train", {"lr": 1.0}, {})
    for step in range(1, 4):
        save(scratch, step)
    older, last = scratch.checkpoints()
    do_damage(damage, (last, other.checkpoints()[0]), keep_time)
    assert scratch.load() == {"step": 2}
    assert f"note: {last} is damaged" in capsys.readouterr().err
    assert scratch.checkpoints() == [older], "it would count as one of the two that are kept"
    save(scratch, 3)
    assert scratch.load() == {"step": 3}


def test_a_checkpoint_of_another_run_with_its_checksum_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DMD_SCRATCH", str(tmp_path))
    one, two = (Scratch("train", {"lr": lr}, {}) for lr in (1.0, 2.0))
    save(one, 1)
    save(two, 2)
    save(two, 3)
    for file in one.folder.glob("state-*"):
        shutil.copy(file, two.folder)
    assert two.load() == {"step": 3}
    two.checkpoints()[-1].unlink()
    with pytest.raises(
        CheckpointError, match=r"every checkpoint is damaged \(state-000001.pt\).*; set DMD_RESUME=fresh"
    ):
        two.load()
    monkeypatch.setenv("DMD_RESUME", "fresh")
    assert two.load() is None and two.checkpoints() == []


def test_a_checkpoint_whose_writing_was_killed_is_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DMD_SCRATCH", str(tmp_path))
    scratch = Scratch("train", {}, {})
    save(scratch, 1)
    (scratch.folder / "state-000002.pt").write_bytes(b"the checksum is missing")
    assert scratch.load() == {"step": 1}
    save(scratch, 2)
    assert scratch.load() == {"step": 2}


def names(scratch: Scratch) -> list[str]:
    return [file.stem.removeprefix("state-") for file in scratch.checkpoints()]


def test_two_checkpoints_are_kept_and_the_last_one_that_every_run_has(scratch: Scratch) -> None:
    """A run may roll back to that one, also after signals have asked for others."""
    for step, is_periodic in enumerate([True, True, False, False, False], start=1):
        save(scratch, step, is_periodic)
    assert names(scratch) == ["000002", "000004-stop", "000005-stop"]
    save(scratch, 6)
    assert names(scratch) == ["000005-stop", "000006"]


def test_a_state_is_copied_when_it_is_saved_and_the_training_does_not_wait(
    scratch: Scratch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights change while the thread waits for a slow disk."""
    go_on, weights = Event(), torch.ones(3)
    written = RowLog.append
    monkeypatch.setattr(RowLog, "append", lambda log, rows: go_on.wait(10) and written(log, rows))
    scratch.save({"net": {"weights": [weights]}}, [{"turn": 1}])
    weights.zero_()
    assert not scratch.checkpoints(), "save has not waited"
    go_on.set()
    state = scratch.load()
    assert state is not None and torch.equal(state["net"]["weights"][0], torch.ones(3))


def test_an_error_of_the_thread_is_raised_at_the_next_turn(scratch: Scratch) -> None:
    """torch would raise a RuntimeError that does not name the system's error. The checkpoint before stays."""
    save(scratch, 1)
    (scratch.folder / ".state-000002.pt.partial").symlink_to("/dev/full")
    scratch.save({"step": torch.zeros(10**5)}, [{"step": 2}])
    wait([scratch.writer.task])  # type: ignore[list-item]
    with pytest.raises(OSError, match=r"No space left on device: .*state-000002.pt"):
        scratch.check()
    scratch.check()
    assert not list(scratch.folder.glob(".*partial")) and scratch.load() == {"step": 1}
    assert scratch.read_rows() == [{"step": 1}]


def test_rows_are_cut_back_to_the_checkpoint(scratch: Scratch) -> None:
    """Every number comes back with the same bits."""
    rows = [{"turn": 1, "loss": 0.1 + 0.2, "phase": "distill"}, {"turn": 2, "loss": math.nan}]
    scratch.save({"turn": 2}, rows)
    scratch.wait()
    with (scratch.folder / "rows.jsonl").open("a") as file:
        file.write('{"turn": 3, "lo')  # the process was killed
    again = Scratch.at(scratch.root, scratch.run, scratch.code)
    assert again.load() == {"turn": 2} and repr(again.read_rows()) == repr(rows)
    again.save({"turn": 3}, [{"turn": 3}])
    assert repr(again.read_rows()) == repr([*rows, {"turn": 3}])


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_rows_are_named_and_not_used(damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = (Scratch.at(tmp_path, name, "code") for name in ("one", "two"))
    for step in range(1, 3):
        save(one, step)
        save(two, -step)
    files = [one.folder / "rows.jsonl", two.folder / "rows.jsonl"]
    if damage == "truncated":
        do_damage(damage, files, keep_time=True)
        assert one.load() == {"step": 1} and one.read_rows() == [{"step": 1}]
        assert "state-000002.pt is damaged" in capsys.readouterr().err
        return
    files[0].write_bytes(files[0].read_bytes().replace(b"1", b"3")) if damage == "flipped" else swap(files)
    with pytest.raises(CheckpointError, match=r"or the rows in rows.jsonl are; set DMD_RESUME=fresh"):
        one.load()


def test_the_size_of_a_checkpoint_does_not_grow_with_the_turns(scratch: Scratch) -> None:
    state, sizes = {"net": torch.zeros(1000)}, []
    for turn in range(3):
        scratch.save(state, [{"turn": turn, "loss": 1.0}] * 10_000)
        scratch.wait()
        sizes.append(scratch.checkpoints()[-1].stat().st_size)
    assert len(scratch.read_rows()) == 30_000 and max(sizes) - min(sizes) < 100


def test_a_checkpoint_of_an_earlier_version_is_one_line(scratch: Scratch) -> None:
    file = scratch.folder / "state-000001.pt"
    torch.save({"step": 1, "rows": [], "code": "code", "run": "run"}, file)
    write_seal(file)
    with pytest.raises(CheckpointError, match=r"000001.pt is a checkpoint of another version .* DMD_RESUME=fresh"):
        scratch.load()


def test_a_part_of_a_run_has_checkpoints_of_its_own(scratch: Scratch) -> None:
    part = scratch.part("vae")
    save(part, 7)
    assert scratch.load() is None and scratch.part("vae").load() == {"step": 7}
    scratch.discard()
    assert not part.folder.exists()
