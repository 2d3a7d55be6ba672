"""Shows runs in TensorBoard and Weights & Biases beside MLflow (`register.trackers`), by the trackers of accelerate.

Each tracker has a thread of its own, which reads the live logs that MLflow's rows come from. It notes in their folder
how much it has sent, so that a run that was killed continues when it starts again. A tracker shows the training and the
final figures; the result itself is in MLflow.
"""

import contextvars
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from dmd.config import load_params
from dmd.storage.worktree import main_worktree
from evaluation.metrics.files import read_metrics
from flows.live.attempts import INTERVAL, Attempts
from flows.live.feed import Row
from flows.live.places import About, Place, open_place
from flows.live.spool import Spool
from flows.registry.figures import list_metrics
from flows.registry.result import METRICS, flatten
from flows.registry.tracking import CURVES


class End(NamedTuple):
    """How a run has ended."""

    is_failed: bool = False
    result: Path | None = None  # the folder that holds the result, if the run has one


class Tracker:
    """The thread that sends a run to one place."""

    def __init__(self, name: str, folder: Path, root: Path, run: str, log: Callable[[str], None]) -> None:
        """name: that of the place. folder: the live logs. root: the project, or the worktree that the run works in."""
        self.root, self.run, self.log = root, run, log
        self.spool = Spool(folder, name, f"{name}.json")
        self.attempt = Attempts(name, log)
        self.place: Place | None = None
        self.end = End()
        self.is_complete = False
        self.stopping, self.deadline = threading.Event(), float("inf")
        follow = contextvars.copy_context().run
        self.thread = threading.Thread(target=follow, args=(self._follow,), name=name, daemon=True)

    def stop(self, patience: float, end: End) -> None:
        """Let the thread send the rest. patience: seconds."""
        self.end, self.deadline = end, time.monotonic() + patience
        self.stopping.set()

    def join(self) -> None:
        """Wait for the thread until the end of its patience, and log if the place lacks a part of the run."""
        self.thread.join(max(0.0, self.deadline - time.monotonic()))
        if not self.is_complete:
            self.log(f"{self.spool.state.store} lacks the end of this run; MLflow has all of it")

    def _follow(self) -> None:
        while not self.stopping.is_set():
            self.attempt(self._deliver)
            self.stopping.wait(INTERVAL)
        if self.attempt(self._deliver) and self.attempt(self._finish):
            self.is_complete = True

    def _deliver(self) -> bool:
        """Send what is new; return True."""
        place = self.place = self.place or self._open()
        try:
            for feed in self.spool.find_feeds():
                while part := feed.read():
                    for row in feed.choose_new(part[0]):
                        place.log(feed.group, row)
                        feed.accept([row], feed.position)  # an error at a later row must not send this one again
                    feed.accept(*part)
            for file in self.spool.find_pictures():
                place.show(f"{file.parent.parent.name}/picture", file, _step(file))
                self.spool.state.pictures.append(self.spool.name(file))
        finally:
            self.spool.save()
        return True

    def _open(self) -> Place:
        params, state = load_params(self.root / "params.yaml"), self.spool.state
        values = {key: str(value) for key, value in flatten(params.model_dump(by_alias=True))}
        run_id = state.run_id or f"{self.run}-{secrets.token_hex(4)}"
        about = About(params.register_.experiment, self.run, run_id, {} if state.run_id else values)
        place = open_place(state.store, main_worktree(self.root) / "runs", about)
        state.run_id = run_id
        self.spool.save()
        return place

    def _finish(self) -> bool:
        """Send the figures of the result, and the curves of trainings that were not run but restored; return True."""
        assert self.place is not None
        if result := self.end.result:
            sent = {feed.group for feed in self.spool.feeds.values()}
            for group, row in _list_restored(result, sent):
                self.place.log(group, row)
            self.place.conclude(list_metrics(read_metrics(result / METRICS)))
        self.place.close(self.end.is_failed)
        return True


def start_trackers(folder: Path, root: Path, run: str, log: Callable[[str], None]) -> list[Tracker]:
    """Start the trackers of params.yaml for a run, whose live logs are in `folder`."""
    names = dict.fromkeys(load_params(root / "params.yaml").register_.trackers)
    trackers = [Tracker(name, folder, root, run, log) for name in names]
    for tracker in trackers:
        tracker.thread.start()
    return trackers


def end_trackers(trackers: Sequence[Tracker], patience: float, end: End) -> None:
    """End the trackers of a run. patience: seconds for all of them together."""
    for tracker in trackers:
        tracker.stop(patience, end)
    for tracker in trackers:
        tracker.join()


def _list_restored(root: Path, sent: set[str]) -> Iterator[tuple[str, Row]]:
    """Yield the recorded rows of trainings whose group was not sent."""
    now = int(1000 * time.time())
    for group, (file, axis) in CURVES.items():
        if group not in sent and (root / file).exists():
            table = pd.read_csv(root / file).set_index(axis).select_dtypes("number")
            for step, row in table.iterrows():
                yield group, Row(now, int(str(step)), {str(key): float(value) for key, value in row.dropna().items()})


def _step(picture: Path) -> int:
    """The turn in the name of a picture, such as turn_000050.png; 0 without one."""
    digits = picture.stem.rpartition("_")[2]
    return int(digits) if digits.isdecimal() else 0
