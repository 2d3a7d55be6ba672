"""A dvc.lock that names results without local files does not hide results that were computed locally."""

import subprocess
import sys
from pathlib import Path

import pytest
from dvc.repo import Repo

from flows.workspace.dvc_lock import FILE, remove_missing

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


def test_without_a_lock_nothing_is_missing(tmp_path: Path) -> None:
    Repo.init(str(tmp_path), no_scm=True).close()
    assert remove_missing(tmp_path) == [] and not (tmp_path / FILE).exists()
