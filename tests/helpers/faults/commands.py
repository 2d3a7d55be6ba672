"""Run a command of the project and measure what it would take on an idle machine."""

import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.helpers.projects import environment

POLL = 0.2  # seconds between two looks at the processes
BESIDE = "flows.services.temporary_server"  # it starts while the command checks its request
PATIENCE = 1200.0  # seconds; a busy machine takes many times longer than an idle one


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    code: int
    out: str
    err: str
    cpu: float  # CPU seconds of the command and of the processes that it waited for, without those of BESIDE
    waits: float  # seconds in which no thread of any of its processes ran or could run
    memory: int  # bytes that the largest process held, but for its last POLL seconds

    @property
    def seconds(self) -> float:
        """The largest wall time on an idle machine: in each moment, a process runs or none does."""
        return self.cpu + self.waits

    @property
    def errors(self) -> list[str]:
        """The lines that say what is wrong."""
        return [line for line in self.err.splitlines() if line.startswith("error: ")]


class _Watch:
    """Looks at a process and its descendants until it has ended."""

    def __init__(self, pid: int) -> None:
        self.process, self.waits = psutil.Process(pid), 0.0
        self.beside: dict[int, float] = {}
        self.memory = 0
        self.end = threading.Event()
        self.thread = threading.Thread(target=self._look, daemon=True)
        self.thread.start()

    def _look(self) -> None:
        before = time.monotonic()
        while not self.end.wait(POLL):
            now = time.monotonic()
            try:
                processes = [self.process, *self.process.children(recursive=True)]
            except psutil.Error:
                return
            if not any(_is_running(process.pid) for process in processes):
                self.waits += now - before
            for process in processes:
                self._count(process)
                self.memory = max(self.memory, _read_peak(process.pid))
            before = now

    def _count(self, process: psutil.Process) -> None:
        try:
            if BESIDE in process.cmdline():
                times = process.cpu_times()
                self.beside[process.pid] = times.user + times.system
        except psutil.Error:
            return


def _read_peak(pid: int) -> int:
    """The most bytes that a process has held since it started its program; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def _is_running(pid: int) -> bool:
    """Whether a thread of a process runs, or waits for a processor."""
    for stat in Path(f"/proc/{pid}/task").glob("*/stat"):
        try:
            if stat.read_text().rpartition(")")[2].split()[0] == "R":
                return True
        except OSError:
            continue
    return False


def command(project: Path, *words: str, env: dict[str, str] | None = None, anonymous: bool = False) -> Ended:
    """Run `python WORDS` in a project. anonymous: without a git user."""
    variables = environment() | {"OMP_NUM_THREADS": "1"} | (env or {})
    if anonymous:
        nowhere = {"HOME": str(project / "runs" / "nobody"), "GIT_CONFIG_NOSYSTEM": "1"}
        variables = {k: v for k, v in variables.items() if not k.startswith("GIT_")} | nowhere
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen([sys.executable, *words], cwd=project, env=variables, stdout=out, stderr=err)
        timer = threading.Timer(PATIENCE, process.kill)
        timer.start()
        watch = _Watch(process.pid)
        _, status, usage = os.wait4(process.pid, 0)
        timer.cancel()
        watch.end.set()
        watch.thread.join()
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        cpu = usage.ru_utime + usage.ru_stime - sum(watch.beside.values())
        return Ended(process.returncode, out.read(), err.read(), cpu, watch.waits, watch.memory)
