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

from benchmarks.wrecking import plan
from benchmarks.wrecking.plan import PUBLISH, START, Fault
from flows.services.processes import find_members

POLL = 0.1  # seconds between two checks of the stages
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
    injected: bool = False  # whether the fault was put in; False if the run ended before


class Run:
    """A command in a project, in a process group of its own, whose stages are followed."""

    def __init__(self, project: Path, argv: list[str], env: Variables) -> None:
        self.project, self.log = project, project.with_name(f"{project.name}.log")
        self.began = time.monotonic()
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, *argv], cwd=project, env=env, stdout=log, stderr=log, start_new_session=True
            )
        self.since = {START: self.began}  # the moments of now, several if stages run beside each other
        self.parts = dict[str, float]()
        self.stages = set[str]()
        self.has_result = (project / "dvc.lock").exists() and (project / "reports/metrics.json").exists()

    def follow(self, fault: Fault | None, expected: Mapping[str, float]) -> Ended:
        """Wait for the end. Put the fault in when its part of the run has lasted for its share of the expected time."""
        injected = False
        while self.process.poll() is None:
            self._look(expected.get(START, 1.0))
            if (
                fault is not None
                and not injected
                and self._waited(fault.moment) >= fault.share * expected.get(fault.moment, 1.0)
            ):
                injected = True
                inject(fault.kind, self)
            if time.monotonic() - self.began > PATIENCE:
                self.signal_all(signal.SIGKILL)
                break
            time.sleep(POLL)
        code = self.process.wait()
        self._enter(set())
        return Ended(code, self.log.read_text(errors="replace"), time.monotonic() - self.began, self.parts, injected)

    def _look(self, start: float) -> None:
        """Note the stage that runs, and the beginning of the publishing.

        start: expected seconds before the first stage. A project that has its result runs no stage, so that the
        publishing follows the start.
        """
        stages = {name for process in self.members() if (name := _stage_of(process))}
        self.stages |= stages
        if stages:
            self._enter(stages)
        elif "evaluate" in self.stages or (self.has_result and time.monotonic() - self.began > start):
            self._enter({PUBLISH})

    def _enter(self, moments: set[str]) -> None:
        """Note the moments of now, and the time since those that have ended."""
        now = time.monotonic()
        for moment in self.since.keys() - moments:
            self.parts[moment] = self.parts.get(moment, 0.0) + now - self.since.pop(moment)
        for moment in moments - self.since.keys():
            self.since[moment] = now

    def _waited(self, moment: str) -> float:
        """Seconds since a moment began; below 0 if it is not there."""
        return time.monotonic() - self.since[moment] if moment in self.since else -1.0

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
        case plan.KILL:
            leader.kill()
        case plan.KILL_STAGE:
            send([p for p in run.members() if _stage_of(p)] or run.members()[-1:], signal.SIGKILL)
        case plan.KILL_ALL:
            run.signal_all(signal.SIGKILL)
        case plan.TERM:
            leader.terminate()
        case plan.TERM_GROUP:
            os.killpg(leader.pid, signal.SIGTERM)
        case plan.INTERRUPT:
            os.killpg(leader.pid, signal.SIGINT)
        case plan.INTERRUPT_TWICE:
            os.killpg(leader.pid, signal.SIGINT)
            threading.Timer(TWICE, lambda: leader.poll() is None and os.killpg(leader.pid, signal.SIGINT)).start()
        case plan.PAUSE:
            run.signal_all(signal.SIGSTOP)
            time.sleep(PAUSED)
            run.signal_all(signal.SIGCONT)
        case plan.KILL_MLFLOW:
            send(find_members(run.project / "runs" / "services", "mlflow"), signal.SIGKILL)
        case plan.KILL_PREFECT:
            send(find_members(run.project / "runs" / "services", "prefect"), signal.SIGKILL)
        case _:
            raise ValueError(f"{kind}: not a fault of a run")
