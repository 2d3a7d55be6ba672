"""`python -m flows.runtime.guard PID`: wait until a process is gone, then end the processes that it started.

A process that is killed cannot end its children. Prefect does not end them either: a runner signals only the process of
the flow (https://github.com/PrefectHQ/prefect/issues/20979, https://github.com/PrefectHQ/prefect/issues/17593).
Each flow therefore starts a guard in a session of its own.
"""

import contextlib
import functools
import os
import signal
import subprocess
import sys
import time

import psutil

from flows.runtime.process import is_running

POLL = 0.5  # seconds
PATIENCE = 10.0  # seconds between two signals: a stage removes temporary files, DVC removes its temporary folder


@functools.cache
def start() -> None:
    """Start a guard for this process; a second call does nothing.

    First waits for the guards of processes that are gone, since their children may hold the same files.
    """
    psutil.wait_procs(_find_active_guards(), timeout=3 * PATIENCE)
    argv = [sys.executable, "-m", "flows.runtime.guard", str(os.getpid())]
    null = subprocess.DEVNULL
    subprocess.Popen(argv, stdin=null, stdout=null, stderr=null, start_new_session=True)


def _find_active_guards() -> list[psutil.Process]:
    """Return the guards whose process is gone."""
    guards = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if words[1:-1] == ["-m", "flows.runtime.guard"]:
            pid = int(words[-1])
            if not (psutil.pid_exists(pid) and is_running(psutil.Process(pid))):
                guards.append(process)
    return guards


def end_orphans(pid: int) -> None:
    """Wait until process `pid` is gone, then end its descendants: interrupt, terminate, kill.

    Signals that a scheduler sends to all processes of the run do not end the guard before its process.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    descendants: list[psutil.Process] = []
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        while is_running(process):
            descendants = [p for p in process.children(recursive=True) if p.pid != os.getpid()]
            time.sleep(POLL)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        _send(_with_children(descendants), number)


def _with_children(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Return the processes that still run, and the children that they have started since."""
    running = dict.fromkeys(p for p in processes if is_running(p))
    for process in list(running):
        with contextlib.suppress(psutil.NoSuchProcess):
            running |= dict.fromkeys(process.children(recursive=True))
    return list(running)


def _send(processes: list[psutil.Process], number: signal.Signals) -> None:
    """Send a signal and wait up to PATIENCE for the processes to end."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)
    psutil.wait_procs(processes, timeout=PATIENCE)


if __name__ == "__main__":
    end_orphans(int(sys.argv[1]))
