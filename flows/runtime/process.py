"""A command in a process group of its own: its lines as they come, and no process left behind, however it ends."""

import contextlib
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import IO, Protocol

from flows.runtime.environment import child_environment

POLL = 0.5  # seconds; also how soon a cancel that comes from another thread is seen
INTERRUPT_PATIENCE = 10.0  # seconds; a Prefect runner kills a cancelled flow after thirty
TERMINATE_PATIENCE = 5.0  # seconds


# Set by the main thread, where cancels and signals arrive, to end the commands that worker threads are running.
STOP = threading.Event()


class Stopped(RuntimeError):
    """The command was ended because the flow is ending."""


class Future(Protocol):
    """What worker threads are at."""

    def wait(self) -> None: ...


@contextlib.contextmanager
def all_ended(futures: Collection[Future]) -> Iterator[None]:
    """The block adds futures; with it they all end, and on an interrupt their commands are stopped."""
    try:
        yield
        for future in futures:
            future.wait()
    except BaseException:
        STOP.set()
        for future in futures:
            future.wait()
        raise


class TookTooLong(TimeoutError):
    """The command was still running at its deadline, and has been ended."""


def run_streaming(argv: Sequence[str], cwd: Path, on_line: Callable[[str], None], timeout: float | None = None) -> int:
    """Run a command, hand on each line of its output (standard error included), return its exit code."""
    if STOP.is_set():
        raise Stopped("the flow is ending")
    process = subprocess.Popen(
        argv,
        cwd=cwd,
        env=child_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        for line in _lines(process, timeout):
            on_line(line)
        return process.wait()
    finally:  # also when the caller is cancelled, interrupted, or at fault
        end_group(process)


def _lines(process: subprocess.Popen[str], timeout: float | None) -> Iterator[str]:
    deadline = time.monotonic() + timeout if timeout else float("inf")
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    assert process.stdout is not None
    threading.Thread(target=_pump, args=(process.stdout, lines), daemon=True).start()
    while time.monotonic() < deadline:
        if STOP.is_set():
            raise Stopped("the flow is ending")
        try:
            line = lines.get(timeout=POLL)
        except queue.Empty:
            if process.poll() is not None:  # it is gone, but something it left behind holds the pipe
                return
            continue
        if line is None:
            return
        yield line
    raise TookTooLong(f"took longer than {timeout:g} s and was ended")


def _pump(pipe: IO[str], lines: "queue.SimpleQueue[str | None]") -> None:
    with pipe:
        for line in pipe:
            lines.put(line.rstrip())
    lines.put(None)


def end_group(process: subprocess.Popen[str]) -> None:
    """Interrupt, terminate, then kill every process of the group; a second Ctrl-C kills at once."""
    try:
        if process.poll() is None:
            # First an interrupt: it lets a stage remove what it has half written, and DVC free its locks.
            _signal_group(process, signal.SIGINT)
            _wait(lambda: process.poll() is not None, INTERRUPT_PATIENCE)
        if _signal_group(process, signal.SIGTERM):
            _wait(lambda: not _signal_group(process, 0), TERMINATE_PATIENCE)
    finally:
        _signal_group(process, signal.SIGKILL)
        process.wait()


def _signal_group(process: subprocess.Popen[str], number: int) -> bool:
    """False when no process of the group is left."""
    process.poll()  # reaps the leader, which would count as a member until then
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return False
    return True


def _wait(is_over: Callable[[], bool], patience: float) -> None:
    deadline = time.monotonic() + patience
    while not is_over() and time.monotonic() < deadline:
        time.sleep(0.1)
