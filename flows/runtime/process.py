"""Run commands in their own process groups, and end a group with its caller, for whatever reason the caller ends."""

import contextlib
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Protocol

import psutil

from dmd.redaction import redact
from flows.runtime.environment import child_environment

POLL = 0.5  # seconds between two checks of STOP
INTERRUPT_PATIENCE = 10.0  # seconds; a Prefect runner kills a cancelled flow after 30
TERMINATE_PATIENCE = 2.0  # seconds
END_PATIENCE = 12.0  # seconds in all; a scheduler that ends a run kills it after 30, and some after 15

# Setting STOP ends the commands of the worker threads. The main thread sets it, since only the main thread receives a
# cancellation or a signal. Prefect does not reliably end its task threads
# (https://github.com/PrefectHQ/prefect/pull/14383).
STOP = threading.Event()
ENDING = "the flow is ending"


class CommandStopped(RuntimeError):
    """A command was ended because the flow ends."""


class CommandTimeout(TimeoutError):
    """A command was ended because it reached its timeout."""


class Future(Protocol):
    """A task in a worker thread."""

    def wait(self) -> None: ...


@contextlib.contextmanager
def join_on_exit(futures: Collection[Future]) -> Iterator[None]:
    """Wait, at the end of the block, for the futures that the block has added; after an exception, stop them first."""
    try:
        yield
        for future in futures:
            future.wait()
    except BaseException:
        STOP.set()
        for future in futures:
            future.wait()
        raise


def run_streaming(
    argv: Sequence[str],
    cwd: Path,
    on_line: Callable[[str], None],
    timeout: float | None = None,
    env: Mapping[str, str] | None = None,
) -> int:
    """Run a command, pass each line of its output and errors to `on_line`, and return its exit code.

    Passwords and tokens in the output are hidden.

    timeout: seconds; None for no limit
    env: variables beside those of this process

    Raises CommandTimeout, or CommandStopped if STOP is set.
    """
    if STOP.is_set():
        raise CommandStopped(ENDING)
    # The command gets its own group, so that its children can be ended with it: Prefect signals only the process of
    # the flow (https://github.com/PrefectHQ/prefect/pull/21112).
    process = subprocess.Popen(
        argv,
        cwd=cwd,
        env={**child_environment(), **(env or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        for line in _read_lines(process, timeout):
            on_line(line)
        return process.wait()
    finally:  # also after a cancel, an interrupt or an exception of on_line
        end_group(process)


def _read_lines(process: subprocess.Popen[str], timeout: float | None) -> Iterator[str]:
    deadline = time.monotonic() + timeout if timeout else float("inf")
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    assert process.stdout is not None
    threading.Thread(target=_pump, args=(process.stdout, lines), daemon=True).start()
    while time.monotonic() < deadline:
        if STOP.is_set():
            raise CommandStopped(ENDING)
        try:
            line = lines.get(timeout=POLL)
        except queue.Empty:
            if process.poll() is not None:  # the command has ended, but one of its children keeps the pipe open
                return
            continue
        if line is None:
            return
        yield redact(line)
    raise CommandTimeout(f"took longer than {timeout:g} s and was ended")


def _pump(pipe: IO[str], lines: "queue.SimpleQueue[str | None]") -> None:
    """Put the lines of a pipe into a queue, then None."""
    with pipe:
        for line in pipe:
            lines.put(line.rstrip())
    lines.put(None)


def end_group(process: subprocess.Popen[str]) -> None:
    """Interrupt, terminate, then kill every process of the group; a second Ctrl-C kills at once.

    A training saves a checkpoint after the first signal. A scheduler that has ended DVC itself leaves the rest of the
    group, which then has all of END_PATIENCE.
    """
    deadline = time.monotonic() + END_PATIENCE
    try:
        if process.poll() is None:
            # An interrupt lets a stage remove its temporary files and DVC release its locks.
            _signal_group(process, signal.SIGINT)
            _wait(lambda: process.poll() is not None, INTERRUPT_PATIENCE)
        if _signal_group(process, signal.SIGTERM):
            _wait(lambda: not _signal_group(process, 0), max(deadline - time.monotonic(), TERMINATE_PATIENCE))
    finally:
        _signal_group(process, signal.SIGKILL)
        process.wait()


def _signal_group(process: subprocess.Popen[str], number: int) -> bool:
    """Send a signal to the group; return False if no process of it is left."""
    process.poll()  # reaps the leader, which would count as a member until then
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return False
    return True


def _wait(is_over: Callable[[], bool], patience: float) -> None:
    """Wait until a condition holds, at most `patience` seconds."""
    deadline = time.monotonic() + patience
    while not is_over() and time.monotonic() < deadline:
        time.sleep(0.1)


def is_running(process: psutil.Process) -> bool:
    """Return whether a process runs; False for a zombie, and if its pid now belongs to another process."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False
