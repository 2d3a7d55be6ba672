"""A stage that is interrupted or exceeds its time limit ends with all its children."""

import sys
import time
from pathlib import Path

import pytest

from flows.runtime import process
from flows.runtime.process import CommandTimeout, run_streaming
from flows.workspace.repro import StageError, reproduce
from tests.helpers.toy_graph import ignore_line, one_stage


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_an_interrupt_ends_the_stage_and_its_children(toy: Path):
    spec = one_stage(toy, "sleep 300 & echo pid $!; echo pid $$; wait")
    pids: list[int] = []

    def interrupt(line: str) -> None:
        if line.startswith("pid "):
            pids.append(int(line.split()[1]))
        if len(pids) == 2:
            raise KeyboardInterrupt

    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        reproduce(spec, toy, interrupt)
    assert [pid for pid in pids if is_alive(pid)] == []
    assert time.monotonic() - start < 20


def test_a_process_that_ignores_signals_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(process, "INTERRUPT_PATIENCE", 0.3)
    monkeypatch.setattr(process, "TERMINATE_PATIENCE", 0.3)
    monkeypatch.setattr(process, "END_PATIENCE", 0.3)
    pids: list[int] = []

    def interrupt(line: str) -> None:
        pids.append(int(line))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_streaming(["sh", "-c", "trap '' INT TERM; echo $$; while true; do sleep 1; done"], tmp_path, interrupt)
    assert not is_alive(pids[0])


def test_a_stage_over_its_time_limit_is_ended(toy: Path):
    start = time.monotonic()
    with pytest.raises(StageError, match=r"^stage one: took longer than 3 s and was ended$") as caught:
        reproduce(one_stage(toy, "sleep 300", timeout=3), toy, ignore_line)
    assert caught.value.timed_out
    assert time.monotonic() - start < 20


def test_a_command_with_much_output_is_ended_in_time(tmp_path: Path):
    with pytest.raises(CommandTimeout):
        run_streaming([sys.executable, "-c", "while True: print('y')"], tmp_path, ignore_line, timeout=1)


def test_a_child_that_keeps_the_pipe_open_does_not_block_the_flow(tmp_path: Path):
    pids: list[str] = []
    assert run_streaming(["sh", "-c", "sleep 300 & echo $!; exit 7"], tmp_path, pids.append) == 7
    assert not is_alive(int(pids[0]))
