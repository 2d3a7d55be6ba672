"""A version is reproduced in a worktree and compared file by file; errors come before any work."""

import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from dmd.errors import UserError
from flows.pipeline.reproduction import fetch_original, find_differences
from flows.pipeline.worktrees import temporary_worktree
from tests.helpers.projects import ROOT
from tests.helpers.registry.stores import copy_store


def git(root: Path, *words: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@t"]
    return subprocess.run(
        ["git", *identity, *words], cwd=root, check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    root.mkdir()
    git(root, "init", "-q")
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=root, check=True)
    (root / "params.yaml").write_text("a: 1\n")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "one")
    return root


def test_a_changed_byte_or_an_additional_file_is_a_difference(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name / "unet").mkdir(parents=True)
        (tmp_path / name / "unet" / "w.safetensors").write_bytes(b"weights")
    assert find_differences(tmp_path / "a", tmp_path / "b") == []
    (tmp_path / "b" / "unet" / "w.safetensors").write_bytes(b"weightz")
    (tmp_path / "b" / "more.json").write_text("{}")
    assert find_differences(tmp_path / "a", tmp_path / "b") == ["more.json", "unet/w.safetensors"]


def test_a_worktree_has_the_commit_and_the_cache_and_is_removed_afterwards(project: Path) -> None:
    commit = git(project, "rev-parse", "HEAD")
    (project / "params.yaml").write_text("a: 2\n")
    with pytest.raises(KeyboardInterrupt), temporary_worktree(project, commit) as place:
        assert (place / "params.yaml").read_text() == "a: 1\n"
        ask = [sys.executable, "-m", "dvc", "cache", "dir"]
        cache = subprocess.run(ask, cwd=place, capture_output=True, text=True, check=True).stdout
        assert Path(cache.strip()).resolve() == project / ".dvc/cache"
        (Path(cache.strip()) / "kept").touch()
        raise KeyboardInterrupt
    assert (project / ".dvc/cache/kept").exists()  # the worktree's link to it is gone
    assert not place.parent.exists() and git(project, "worktree", "list").count("\n") == 0


def test_the_worktree_of_a_killed_process_is_removed_but_not_that_of_a_running_one(project: Path) -> None:
    commit = git(project, "rev-parse", "HEAD")
    code = (
        "import os, signal, sys; from pathlib import Path; from flows.pipeline.worktrees import temporary_worktree\n"
        "with temporary_worktree(Path(sys.argv[1]), sys.argv[2]) as place:\n"
        "    print(place, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run(
        [sys.executable, "-c", code, str(project), commit], cwd=ROOT, capture_output=True, text=True
    )
    left = Path(killed.stdout.strip())
    assert killed.returncode == -9 and left.is_dir() and str(left) in git(project, "worktree", "list")
    with temporary_worktree(project, commit) as mine:
        assert not left.parent.exists() and str(left) not in git(project, "worktree", "list")
        with temporary_worktree(project, commit):
            assert mine.is_dir(), "its process is alive"


def test_a_missing_commit_is_one_line(project: Path) -> None:
    with (
        pytest.raises(UserError, match="this repository has no commit 0123456; run git fetch and try again"),
        temporary_worktree(project, "0123456"),
    ):
        pass


def test_a_version_of_uncommitted_code_is_an_error(tmp_path: Path, empty_store: Path) -> None:
    client = MlflowClient(f"sqlite:///{copy_store(empty_store, tmp_path / 'mlflow.db')}")
    client.create_registered_model("m")
    client.create_model_version("m", "somewhere", tags={"git.dirty": "true", "git.sha": "0" * 40})
    with pytest.raises(UserError, match="models:/m/1 was made from uncommitted changes"):
        fetch_original(client, "models:/m/1", tmp_path)
    with pytest.raises(UserError, match="'m/1' is not a registered version; write models:/NAME/VERSION"):
        fetch_original(client, "m/1", tmp_path)
