"""A file of locks that a full disk has cut off is removed, unless a process of DVC may still need it."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from dmd.errors import UserError
from flows.runtime.process import end_group
from flows.workspace.graph import read_graph
from flows.workspace.repro import StageError, reproduce
from flows.workspace.rwlock import FILE, repair
from tests.helpers.toy_graph import ignore_line, new_toy, one_stage

WHOLE = '{"write": {"/somewhere": {"pid": 1, "cmd": "dvc repro"}}, "read": {}}'


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """A repository with three cheap stages."""
    root = new_toy(tmp_path)
    (root / FILE).parent.mkdir(exist_ok=True)
    return root


def test_a_file_that_is_cut_off_is_removed(toy: Path) -> None:
    """It is also removed before a stage runs."""
    for content in ("", WHOLE[:-1], WHOLE[:40]):
        (toy / FILE).write_text(content)
        assert repair(toy) and not (toy / FILE).exists()
    (toy / FILE).write_text(content)
    lines: list[str] = []
    assert reproduce(read_graph(toy)["first"], toy, lines.append) == "Ran"
    assert lines[0] == f"{FILE} was cut off, as by a full disk, and no process of DVC runs here: it is removed"


@pytest.mark.slow
def test_dvc_itself_fails_on_such_a_file(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If DVC repairs the file one day, this module can go."""
    (toy / FILE).write_text(WHOLE[:40])
    monkeypatch.setattr("flows.workspace.rwlock.repair", lambda _root: None)
    with pytest.raises(StageError, match="JSON structure is corrupted"):
        reproduce(read_graph(toy)["first"], toy, ignore_line)


def test_a_stage_beside_another_one_fails_with_the_reason(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prefect prints a traceback for any other error of its task."""

    def refuse(_root: Path) -> None:
        raise UserError("rwlock is cut off, and DVC runs")

    monkeypatch.setattr("flows.workspace.rwlock.repair", refuse)
    with pytest.raises(StageError, match=r"^stage first: rwlock is cut off, and DVC runs$"):
        reproduce(read_graph(toy)["first"], toy, ignore_line)


def test_a_whole_file_is_kept(toy: Path) -> None:
    assert repair(toy) is None
    (toy / FILE).write_text(WHOLE)
    assert repair(toy) is None and (toy / FILE).read_text() == WHOLE


def test_a_file_is_kept_while_dvc_runs(toy: Path) -> None:
    one_stage(toy, "echo started > started; sleep 60")
    process = subprocess.Popen([sys.executable, "-m", "dvc", "repro", "-q"], cwd=toy, text=True, start_new_session=True)
    try:
        while not (toy / "started").exists() and process.poll() is None:
            time.sleep(0.1)
        (toy / FILE).write_text(WHOLE[:40])
        with pytest.raises(UserError, match=rf"is cut off, and DVC runs in .* \(pid {process.pid}\); wait for it"):
            repair(toy)
        assert (toy / FILE).read_text() == WHOLE[:40]
    finally:
        end_group(process)
    assert repair(toy) and not (toy / FILE).exists()
