"""Runs a command of the project, follows its stages, and puts a fault into it."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.wrecking.plan import (
    INTERRUPT,
    INTERRUPT_TWICE,
    KILL,
    KILL_ALL,
    KILL_MLFLOW,
    KILL_PREFECT,
    KILL_STAGE,
    PAUSE,
    PUBLISH,
    START,
    TERM,
    TERM_GROUP,
    Fault,
)
from flows.services.processes import find_members

POLL = 0.1  # seconds between two looks at the stages
PATIENCE = 7200.0  # seconds; a run that takes longer hangs
PAUSED = 5.0  # seconds between SIGSTOP and SIGCONT
TWICE = 0.5  # seconds between two interrupts
Variables = Mapping[str, str]


@dataclass
class Ended:
    """A run that has ended."""

    code: int
    output: str
    seconds: float
    parts: dict[str, float] = field(default_factory=dict)  # seconds of each moment
    injected: bool = False  # whether the fault came before the end of its moment


class Run:
    """A command in a project, in a process group of its own, whose stages are followed."""

    def __init__(self, project: Path, argv: list[str], env: Variables) -> None:
        self.project, self.log = project, project.with_name(f"{project.name}.log")
        self.began = time.monotonic()
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, *argv], cwd=project, env=env, stdout=log, stderr=log, start_new_session=True
            )
        self.moment, self.since, self.parts = START, self.began, dict[str, float]()
        self.stages = set[str]()
        self.has_result = (project / "dvc.lock").exists() and (project / "reports/metrics.json").exists()

    def follow(self, fault: Fault | None, expected: Mapping[str, float]) -> Ended:
        """Wait for the end. Put the fault in when its part of the run has lasted for its share of the expected time."""
        injected = False
        while self.process.poll() is None:
            self._look(expected.get(START, 1.0))
            waited = time.monotonic() - self.since
            due = fault is not None and self.moment == fault.moment
            if due and not injected and waited >= fault.share * expected.get(fault.moment, 1.0):
                injected = True
                inject(fault.kind, self)
            if time.monotonic() - self.began > PATIENCE:
                self.signal_all(signal.SIGKILL)
                break
            time.sleep(POLL)
        code = self.process.wait()
        self._enter("")
        return Ended(code, self.log.read_text(errors="replace"), time.monotonic() - self.began, self.parts, injected)

    def _look(self, start: float) -> None:
        """Note the stage at work, and that the last one has ended.

        start: seconds before the first stage. If no stage is left to run, what follows is the publishing.
        """
        stages = {name for process in self.members() if (name := _stage_of(process))}
        self.stages |= stages
        if stages:
            self._enter(min(stages))
        elif "evaluate" in self.stages or (self.has_result and time.monotonic() - self.began > start):
            self._enter(PUBLISH)

    def _enter(self, moment: str) -> None:
        if moment != self.moment:
            now = time.monotonic()
            self.parts[self.moment] = self.parts.get(self.moment, 0.0) + now - self.since
            self.moment, self.since = moment, now

    def members(self) -> list[psutil.Process]:
        """The processes of the command."""
        try:
            leader = psutil.Process(self.process.pid)
            return [leader, *leader.children(recursive=True)]
        except psutil.Error:
            return []

    def signal_all(self, number: int) -> None:
        """Signal every process of the command."""
        send(self.members(), number)


def _stage_of(process: psutil.Process) -> str:
    """The stage that a process runs; "" if it runs none."""
    try:
        words = process.cmdline()
    except psutil.Error:
        return ""
    names = [word.removeprefix("stages.") for word in words if word.startswith("stages.")]
    return names[0] if names else ""


def send(processes: list[psutil.Process], number: int) -> None:
    """Signal processes, some of which may have ended."""
    for process in processes:
        try:
            process.send_signal(number)
        except psutil.Error:
            continue


def inject(kind: str, run: Run) -> None:
    """Do what a fault of this kind does to a run."""
    leader = run.process
    match kind:
        case _ if kind == KILL:
            leader.kill()
        case _ if kind == KILL_STAGE:
            send([p for p in run.members() if _stage_of(p)] or run.members()[-1:], signal.SIGKILL)
        case _ if kind == KILL_ALL:
            run.signal_all(signal.SIGKILL)
        case _ if kind == TERM:
            leader.terminate()
        case _ if kind == TERM_GROUP:
            os.killpg(leader.pid, signal.SIGTERM)
        case _ if kind in (INTERRUPT, INTERRUPT_TWICE):
            os.killpg(leader.pid, signal.SIGINT)
            if kind == INTERRUPT_TWICE:
                threading.Timer(TWICE, lambda: leader.poll() is None and os.killpg(leader.pid, signal.SIGINT)).start()
        case _ if kind == PAUSE:
            run.signal_all(signal.SIGSTOP)
            time.sleep(PAUSED)
            run.signal_all(signal.SIGCONT)
        case _ if kind in (KILL_MLFLOW, KILL_PREFECT):
            name = "mlflow" if kind == KILL_MLFLOW else "prefect"
            send(find_members(run.project / "runs" / "services", name), signal.SIGKILL)
        case _:
            raise ValueError(f"{kind}: not a fault of a run")
