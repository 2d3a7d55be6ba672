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
    assert worktrees.find_owners(toy) == [os.getpid()]
    worktrees._remove_abandoned(toy)
    assert place.is_dir()


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
