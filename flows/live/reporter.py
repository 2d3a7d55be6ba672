"""Follows a run from its start to its end, in a thread, so that no failure of MLflow or Prefect stops a stage."""

import contextlib
import contextvars
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from flows.live.attempts import INTERVAL, Attempts
from flows.live.sending import begin_run, deliver, describe_begun, settle, settle_abandoned
from flows.live.spool import Spool, open_spool
from flows.live.trackers import End, end_trackers, start_trackers
from flows.registry.store import connect
from flows.registry.tracking import Begun
from flows.runtime.process import CommandStopped

PATIENCE = 30.0  # seconds that the end of a completed run waits for the thread; `publish` adds what is missing
SHORT_PATIENCE = 3.0  # the same for a run that fails or is cancelled; a scheduler kills it soon


class Display(Protocol):
    """Shows a run that is followed in another place, such as the page of its Prefect run. It raises nothing."""

    def begin(self, run_id: str) -> None: ...
    def update(self, spool: Spool, is_last: bool) -> None: ...


@dataclass(frozen=True)
class Job:
    """A flow's work in one folder, which becomes one MLflow run."""

    root: Path
    flow_run: str | None = None  # id of the Prefect flow run
    experiment: str | None = None  # the DVC experiment; None for the workspace
    target: str | None = None  # the last stage to run; None for all
    tags: Mapping[str, str] = field(default_factory=dict)  # further tags of the MLflow run

    @property
    def key(self) -> str:
        """The name under which an attempt at the same job finds what an earlier one has left."""
        return (self.experiment or "workspace") + (f"-to-{self.target}" if self.target else "")


class Reporter:
    """The thread that sends the rows of the stages to MLflow."""

    def __init__(self, spool: Spool, job: Job, display: Display, log: Callable[[str], None]) -> None:
        self.spool, self.job, self.display, self.attempt = spool, job, display, Attempts("MLflow", log)
        self.stopping, self.deadline = threading.Event(), float("inf")
        self.has_begun = False
        follow = contextvars.copy_context().run  # Prefect finds the flow run in the context
        self.thread = threading.Thread(target=follow, args=(self._follow,), name="live", daemon=True)

    @property
    def folder(self) -> Path:
        """The folder for the live logs, with a folder for each stage."""
        return self.spool.folder

    @property
    def has_failed(self) -> bool:
        """Whether the flow has failed or was cancelled."""
        return self.spool.state.status in ("FAILED", "KILLED")

    def finish(self) -> Begun | None:
        """Send the rest within PATIENCE seconds; return the run to complete, or None if MLflow has not created it."""
        self._stop(PATIENCE)
        return describe_begun(self.spool)

    def close(self) -> None:
        """Remove the folder of a completed run once MLflow holds all of it; otherwise a later flow sends the rest."""
        self._note("FINISHED")
        if self.attempt(self._settle) is not None:
            self.spool.remove()

    def fail(self, status: str) -> None:
        """End the run with `status`, FAILED or KILLED. If the server does not answer, a later flow ends the run."""
        self._note(status)
        if self.thread.is_alive():
            self._stop(SHORT_PATIENCE)
        else:  # the result could not be published
            self.attempt(self._settle)

    def _note(self, status: str) -> None:
        """Note how the run has ended. A full disk must not hide why."""
        self.spool.state.status = status
        with contextlib.suppress(OSError):
            self.spool.save()

    def _stop(self, patience: float) -> None:
        self.deadline = time.monotonic() + patience
        self.stopping.set()
        self.thread.join(patience)

    def _follow(self) -> None:
        self.attempt(self._deliver)
        self.attempt(lambda: settle_abandoned(self.job.root))
        is_last = False
        while not is_last:
            is_last = self.stopping.is_set()
            while self.attempt(self._deliver) and time.monotonic() < self.deadline:
                pass
            if self.has_failed:
                self.attempt(self._settle)
            else:
                self.display.update(self.spool, is_last)
            self.stopping.wait(INTERVAL)

    def _deliver(self) -> bool:
        """Send what is new, and return whether there is more."""
        with connect(self.job.root) as client:
            if not self.has_begun:
                begin_run(client, self.spool, self.job.root, self.job.flow_run, self.job.experiment, self.job.tags)
                self.has_begun = True
                self.display.begin(self.spool.state.run_id)
            return deliver(client, self.spool)

    def _settle(self) -> bool:
        with connect(self.job.root) as client:
            settle(client, self.spool)
        return True


@contextlib.contextmanager
def follow(job: Job, display: Display, log: Callable[[str], None]) -> Iterator[Reporter]:
    """Follow a run during the block, which calls `finish` and publishes the result.

    An exception in the block ends the run as FAILED, or as KILLED if the flow was stopped. log: gets messages for the
    user, none of them after the block. Raises UserError if the folder of the live logs cannot be written.
    """
    with open_spool(job.root, job.key) as spool, _open_log(log) as log_now:
        reporter = Reporter(spool, job, display, log_now)
        trackers = start_trackers(spool.folder, job.root, job.key, log_now)
        reporter.thread.start()
        try:
            yield reporter
        except BaseException as e:
            is_stopped = isinstance(e, CommandStopped) or not isinstance(e, Exception)
            reporter.fail("KILLED" if is_stopped else "FAILED")
            end_trackers(trackers, SHORT_PATIENCE, End(is_failed=True))
            raise
        end_trackers(trackers, PATIENCE, End(result=None if job.target else job.root))
        reporter.close()


@contextlib.contextmanager
def _open_log(log: Callable[[str], None]) -> Iterator[Callable[[str], None]]:
    """Yield `log` for the block. A thread that outlives the run logs nothing: Prefect's log has ended by then."""
    is_open = threading.Event()
    is_open.set()
    try:
        yield lambda line: log(line) if is_open.is_set() else None
    finally:
        is_open.clear()
