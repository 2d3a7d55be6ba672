"""A worktree whose process was killed is removed, also one that git was still filling, and that of a live one stays."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from flows.pipeline import worktrees
from flows.runtime.git import git
from tests.helpers.toy_graph import commit, new_toy


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    (tmp_path / "toy").mkdir()
    root = new_toy(tmp_path / "toy")
    commit(root)
    return root


def add(toy: Path, tmp_path: Path, owner: int) -> Path:
    """Make a worktree as `temporary_worktree` does in the process `owner`."""
    place = tmp_path / f"onestep-{owner}-abc" / "toy"
    place.parent.mkdir()
    assert git(toy, "worktree", "add", "-q", "--detach", str(place)) is not None
    return place


def test_the_worktree_of_a_process_that_runs_stays(toy: Path, tmp_path: Path) -> None:
    place = add(toy, tmp_path, os.getpid())
    assert worktrees.find_owners(toy) == [f"pid {os.getpid()}"]
    worktrees._remove_abandoned(toy)
    assert place.is_dir()


def test_the_worktree_of_another_host_stays(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither its process nor its folder is visible here, where the project is on a shared file system."""
    (toy / "params.yaml").write_text("a: 1\n")
    commit(toy)
    with worktrees.temporary_worktree(toy, git(toy, "rev-parse", "HEAD") or "") as place:
        monkeypatch.setattr(worktrees.socket, "gethostname", lambda: "other")
        hidden = place.parent.rename(place.parent.with_name(f"hidden-{place.parent.name}"))
        monkeypatch.setattr(worktrees, "_is_at_work", lambda *_words: False)
        worktrees._remove_abandoned(toy)
        assert git(toy, "worktree", "prune") is not None  # as by another version, or by hand
        assert str(place) in str(git(toy, "worktree", "list"))
        (owner,) = worktrees.find_owners(toy)
        host = monkeypatch.undo() or worktrees.socket.gethostname()
        assert owner == f"pid {os.getpid()} on host {host}; if that has ended, git worktree unlock {place}"
        hidden.rename(place.parent)
        assert worktrees.find_owners(toy) == [f"pid {os.getpid()}"]
    assert str(git(toy, "worktree", "list")).count("\n") == 0


def test_the_worktree_of_a_killed_process_of_this_host_is_removed(toy: Path, tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    place = add(toy, tmp_path, ended.pid)
    reason = f"{worktrees.HOST}{worktrees.socket.gethostname()}"
    assert git(toy, "worktree", "lock", str(place), "--reason", reason) is not None
    worktrees._remove_abandoned(toy)
    assert not place.parent.exists() and str(git(toy, "worktree", "list")).count("\n") == 0


@pytest.mark.parametrize("state", ["gone", "id of a later process", "locked by git", "folder gone"])
def test_an_abandoned_worktree_is_removed(toy: Path, tmp_path: Path, state: str) -> None:
    """A kill during `git worktree add` leaves the lock that git holds meanwhile; `git worktree prune` respects it."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    place = add(toy, tmp_path, os.getpid() if state.startswith("id") else ended.pid)
    if state.startswith("id"):
        os.utime(place.parent, (1, 1))  # the process of this test began later
    if state == "locked by git":
        assert git(toy, "worktree", "lock", str(place), "--reason", "initializing") is not None
    if state == "folder gone":
        subprocess.run(["rm", "-r", str(place.parent)], check=True)
    assert worktrees.find_owners(toy) == []
    worktrees._remove_abandoned(toy)
    assert not place.parent.exists() and str(git(toy, "worktree", "list")).count("\n") == 0
