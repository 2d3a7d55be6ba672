"""A dvc.lock that names results without local files does not hide results that were computed locally."""

import subprocess
import sys
from pathlib import Path

import pytest
from dvc.repo import Repo

from dmd.errors import UserError
from flows.workspace import dvc_lock
from flows.workspace.dvc_lock import FILE, remove_missing, repair
from flows.workspace.graph import read_graph
from tests.helpers.toy_graph import commit, new_toy

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


LOCK = """schema: '2.0'
stages:
  aside:
    cmd: echo aside > aside.txt
    outs:
    - path: aside.txt
      hash: md5
      md5: 5ee3b8ad5ed4a2b5e4dfbd1d7c2e2b76
      size: 6
"""


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with three cheap stages and a dvc.lock."""
    monkeypatch.setattr(dvc_lock, "STILL", 0.2)
    root = new_toy(tmp_path)
    (root / FILE).write_text(LOCK)
    return root


@pytest.mark.parametrize("length", [0, 5, 20, 60, 120])
def test_a_lock_that_was_cut_off_is_replaced(toy: Path, length: int) -> None:
    assert repair(toy) is None and (toy / FILE).read_text() == LOCK
    (toy / FILE).write_text(LOCK[:length])
    assert repair(toy) == f"{FILE} was cut off, as by a full disk, and no process of DVC runs here: it is removed"
    assert not (toy / FILE).exists() and repair(toy) is None and len(read_graph(toy)) == 3
    (toy / FILE).write_text(LOCK)
    commit(toy)
    (toy / FILE).write_text(LOCK[:length])
    assert str(repair(toy)).endswith("it is that of the last commit again") and (toy / FILE).read_text() == LOCK


def test_a_lock_that_is_cut_off_is_kept_while_dvc_runs(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (toy / FILE).write_text(LOCK[:60])
    monkeypatch.setattr(dvc_lock, "find_holders", lambda _: "pid 7")
    with pytest.raises(UserError, match=r"dvc\.lock is cut off, and DVC runs in .* \(pid 7\); wait for it or end it"):
        repair(toy)
    assert (toy / FILE).read_text() == LOCK[:60]
