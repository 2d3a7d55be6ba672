"""A dvc.lock that names results without local files does not hide results that were computed locally."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from dvc.repo import Repo

from flows.runtime.file_lock import hold_lock
from flows.workspace.dvc_lock import ABLATION_LOCK, BACKUP, FILE, remove_missing, restore_abandoned, without_missing
from tests.helpers.projects import ROOT, environment

STAGES = """
stages:
  draw:
    cmd: python -c "import uuid; open('drawn', 'w').write(uuid.uuid4().hex)"
    deps: [seed]
    outs: [drawn]
  copy:
    cmd: cp seed copied
    deps: [seed]
    outs: [copied]
"""


def repro(root: Path) -> None:
    subprocess.run([sys.executable, "-m", "dvc", "repro", "-q"], cwd=root, check=True)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone with the dvc.lock of another machine, where stage `draw` wrote other bytes than here."""
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    Repo.init(str(tmp_path)).close()
    (tmp_path / "dvc.yaml").write_text(STAGES)
    (tmp_path / "seed").write_text("1")
    repro(tmp_path)
    theirs = (tmp_path / FILE).read_bytes()
    with Repo(str(tmp_path)) as repo:
        drawn = next(out for s in repo.index.stages for out in s.outs if str(out) == "drawn")
        Path(drawn.cache_path).unlink()
    (tmp_path / "drawn").unlink()
    repro(tmp_path)
    ours = (tmp_path / "drawn").read_text()
    (tmp_path / "drawn").unlink()
    (tmp_path / FILE).write_bytes(theirs)
    (tmp_path / "ours").write_text(ours)
    return tmp_path


def test_a_result_of_this_machine_is_restored(clone: Path) -> None:
    assert remove_missing(clone) == ["draw"]
    repro(clone)
    assert (clone / "drawn").read_text() == (clone / "ours").read_text()
    assert remove_missing(clone) == []


def test_the_lock_is_restored_unless_another_process_wrote_it(clone: Path) -> None:
    theirs = (clone / FILE).read_bytes()
    with without_missing(clone) as missing:
        assert missing == ["draw"] and b"draw:" not in (clone / FILE).read_bytes()
    assert (clone / FILE).read_bytes() == theirs
    with without_missing(clone):
        repro(clone)
    assert (clone / FILE).read_bytes() != theirs and b"draw:" in (clone / FILE).read_bytes()


KILLED = """
import os, pathlib, signal
from flows.workspace.dvc_lock import without_missing

with without_missing(pathlib.Path.cwd()):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def kill_within(root: Path) -> None:
    """Run a process that SIGKILL ends while stages are missing from the lock."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED], cwd=root, env={**environment(), "PYTHONPATH": str(ROOT)}, check=False
    )
    assert done.returncode == -signal.SIGKILL and b"draw:" not in (root / FILE).read_bytes()


def test_the_next_process_restores_the_lock_of_a_killed_process(clone: Path) -> None:
    theirs = (clone / FILE).read_bytes()
    kill_within(clone)
    with without_missing(clone) as missing:
        assert missing == ["draw"]
    assert (clone / FILE).read_bytes() == theirs
    kill_within(clone)
    with hold_lock(clone / ABLATION_LOCK):
        restore_abandoned(clone)
        assert (clone / FILE).read_bytes() != theirs
    restore_abandoned(clone)
    assert (clone / FILE).read_bytes() == theirs and not (clone / BACKUP).exists()
    kill_within(clone)
    repro(clone)
    ours = (clone / FILE).read_bytes()
    restore_abandoned(clone)
    assert (clone / FILE).read_bytes() == ours and b"draw:" in ours


def test_without_a_lock_nothing_is_missing(tmp_path: Path) -> None:
    Repo.init(str(tmp_path), no_scm=True).close()
    with without_missing(tmp_path) as missing:
        assert missing == [] and not (tmp_path / FILE).exists()
