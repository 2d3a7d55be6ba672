"""Runs that tests follow in a small repository with a store of its own."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from dmd import progress
from flows.live.reporter import Job, Reporter, follow
from flows.live.spool import Spool
from flows.registry.store import tracking_uri
from tests.helpers.servers import eventually


class Notes:
    """A display that notes what it is told."""

    def __init__(self) -> None:
        self.runs: list[str] = []
        self.lines: list[str] = []
        self.ends: list[bool] = []

    def begin(self, run_id: str) -> None:
        self.runs.append(run_id)

    def update(self, spool: Spool, is_last: bool) -> None:
        self.ends.append(is_last)


@contextlib.contextmanager
def followed(root: Path, notes: Notes, experiment: str | None = None) -> Iterator[Reporter]:
    """Follow a run during the block."""
    with follow(Job(root, "a-flow-run", experiment), notes, notes.lines.append) as reporter:
        yield reporter


def log(reporter: Reporter, name: str = "train", stage: str = "train") -> progress.LiveLog:
    """The live log of a training of a stage."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(progress.LIVE, str(reporter.folder / stage))
        return progress.LiveLog(name)


def history(root: Path, run: str, key: str = "train/loss") -> list[tuple[int, float]]:
    """The points of a curve of a run."""
    return [(m.step, m.value) for m in MlflowClient(tracking_uri(root)).get_metric_history(run, key)]


def status(root: Path, run: str) -> str:
    """The status of a run."""
    return MlflowClient(tracking_uri(root)).get_run(run).info.status


def wait_for(root: Path, notes: Notes, points: list[tuple[int, float]], key: str = "train/loss") -> str:
    """Wait until the run has these points, and return its id."""
    assert eventually(lambda: notes.runs and history(root, notes.runs[-1], key) == points, 30), notes.lines
    return notes.runs[-1]
