"""Runs a member of an ablation with an MLflow run that exists from its start, so that its training can be watched."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from prefect.runtime import flow_run

from dmd.errors import UserError
from flows.ablation import experiment
from flows.ablation.plan import Member
from flows.ablation.runs import begin, publish_member
from flows.live.reporter import Job, follow
from flows.live.sending import settle_abandoned
from flows.pipeline.live_artifacts import LiveArtifacts

Log = Callable[[str], None]


class NotPublishedError(UserError):
    """The member's experiment is saved, and MLflow did not take its figures."""


def prepare(root: Path, name: str, commit: str, log: Log) -> None:
    """Create the parent run, and settle the runs of an ablation that was killed, so that its members continue them.

    This happens before the first member: each member settles such runs when it begins, too, and one could then hold a
    run that another one continues.
    """
    try:
        begin(root, name, commit)
        settle_abandoned(root)
    except UserError as e:
        log(f"MLflow is not ready yet: {e}")


def run_watched(root: Path, name: str, member: Member, log: Log, target: str | None = None) -> None:
    """Run a member's experiment and complete its MLflow run, which ends as FAILED or KILLED with the member.

    log: called with each line of DVC's output. target: the last stage to run. Raises what `experiment.run` raises. If
    MLflow is away at the end, the run ends as FAILED, and the next `publish_member` replaces it.
    """

    @contextlib.contextmanager
    def watch(place: Path) -> Iterator[Path | None]:
        try:
            tags = begin(root, name, member.commit)
        except UserError as e:
            log(f"this run can't be watched: {e}")
            yield None
            return
        job = Job(place, flow_run.id and str(flow_run.id), member.experiment, target, tags)
        with follow(job, LiveArtifacts(root), log) as reporter:
            yield reporter.folder
            try:
                publish_member(root, name, member, reporter.finish())
            except UserError as e:
                raise NotPublishedError(str(e)) from e

    with contextlib.suppress(NotPublishedError):
        experiment.run(root, member, log, target, watch)
