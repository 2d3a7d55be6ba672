"""`python -m flows.runtime.guard PID`: ends the processes that a killed process leaves behind.

It watches from a session of its own, and goes when the process has gone.
"""

import contextlib
import functools
import os
import signal
import subprocess
import sys
import time

import psutil

POLL = 0.5  # seconds
PATIENCE = 10.0  # seconds between two signals: a stage removes what it has half written, DVC its temporary folder


@functools.cache
def watch() -> None:
    """Have this process's descendants ended should it be killed; a second call does nothing.

    Waits for what a process killed before leaves behind: it may hold the same files.
    """
    psutil.wait_procs(_at_work(), timeout=3 * PATIENCE)
    quiet = subprocess.DEVNULL
    argv = [sys.executable, "-m", "flows.runtime.guard", str(os.getpid())]
    subprocess.Popen(argv, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True)


def _at_work() -> list[psutil.Process]:
    """Guards whose process has gone."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if words[1:-1] == ["-m", "flows.runtime.guard"]:
            watched = int(words[-1])
            if not (psutil.pid_exists(watched) and _runs(psutil.Process(watched))):
                found.append(process)
    return found


def guard(pid: int) -> None:
    """Return once the process is gone and nothing that it had started runs any more."""
    family: list[psutil.Process] = []
    with contextlib.suppress(psutil.NoSuchProcess):
        watched = psutil.Process(pid)
        while _runs(watched):
            family = [p for p in watched.children(recursive=True) if p.pid != os.getpid()]
            time.sleep(POLL)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        _end(_with_children(family), number)


def _runs(process: psutil.Process) -> bool:
    """A number that was given to another process is seen by its start; a zombie waits for its parent only."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def _with_children(family: list[psutil.Process]) -> list[psutil.Process]:
    """Those still alive, and what they have started since they were last seen."""
    alive = dict.fromkeys(p for p in family if _runs(p))
    for process in list(alive):
        with contextlib.suppress(psutil.NoSuchProcess):
            alive |= dict.fromkeys(process.children(recursive=True))
    return list(alive)


def _end(processes: list[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)
    psutil.wait_procs(processes, timeout=PATIENCE)


if __name__ == "__main__":
    guard(int(sys.argv[1]))
