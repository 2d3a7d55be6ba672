"""Sends the rows and pictures of a spool to its MLflow run. The calls wait for the server; no stage makes them."""

import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from dmd.config import load_params
from flows.live.feed import Feed, Row, metric_values
from flows.live.spool import FINISHED, Spool, find_abandoned, list_unsettled
from flows.registry.candidates import KEPT, Candidate, log_candidates
from flows.registry.description import describe_changes, find_changes
from flows.registry.result import flatten, origin_tags
from flows.registry.store import connect, experiment_id
from flows.registry.tracking import BATCH, DESCRIPTION, PUBLISHER_SINCE, Begun, is_missing

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

MOST_BATCHES = 20  # of a log in one delivery, so that other logs, pictures and the end of the flow wait only seconds
PARAMS = 100  # parameters in one request: MLflow's limit
PICTURES = "pictures/training"  # folder of the artifacts; those of the finished result have the same names


def begin_run(
    client: "MlflowClient",
    spool: Spool,
    root: Path,
    flow_run: str | None,
    experiment: str | None,
    more: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Create the run of a spool, or open that of an earlier attempt again.

    flow_run: id of the Prefect flow run; experiment: name of the DVC experiment, None for the workspace; more: further
    tags
    """
    tags = {**origin_tags(root, flow_run, experiment), PUBLISHER_SINCE: str(int(1000 * time.time())), **more}
    earlier = spool.state.run_id
    if earlier and not is_missing(client, earlier) and client.get_run(earlier).info.status != FINISHED:
        for key, value in tags.items():
            client.set_tag(earlier, key, value)
        client.update_run(earlier, status="RUNNING")
        return
    spool.begin_again()
    params = load_params(root / "params.yaml")
    spool.state.run_id = _create_run(client, experiment or params.register_.name, params.register_.experiment, tags)
    spool.save()
    changes = find_changes(root, (root / "params.yaml").read_text())
    client.set_tag(spool.state.run_id, DESCRIPTION, f"**Changed:** {describe_changes(changes)}.")
    _log_params(client, spool.state.run_id, dict(flatten(params.model_dump(by_alias=True))))


def _create_run(client: "MlflowClient", name: str, experiment: str, tags: Mapping[str, str]) -> str:
    from mlflow.tracking.context.registry import resolve_tags  # what mlflow.start_run adds: user and command

    return client.create_run(
        experiment_id(client, experiment), tags=resolve_tags(dict(tags)), run_name=name
    ).info.run_id


def _log_params(client: "MlflowClient", run_id: str, params: Mapping[str, object]) -> None:
    from mlflow.entities import Param

    items = [Param(key, str(value)) for key, value in params.items()]
    for start in range(0, len(items), PARAMS):
        client.log_batch(run_id, params=items[start : start + PARAMS])


def deliver(client: "MlflowClient", spool: Spool) -> bool:
    """Send new rows and pictures; return whether there may be more of them.

    If an answer is lost, rows are sent twice, with the same times, and MLflow stores them once.
    """
    is_more = False
    try:
        for feed in spool.find_feeds():
            is_more |= _send_rows(client, spool.state.run_id, feed)
        for file in spool.find_pictures():
            client.log_artifact(spool.state.run_id, str(file), PICTURES)
            spool.state.pictures.append(spool.name(file))
    finally:
        spool.save()
    return is_more


def _send_rows(client: "MlflowClient", run_id: str, feed: Feed) -> bool:
    batches = 0
    while batches < MOST_BATCHES:
        if (part := feed.read()) is None:
            return False
        rows = feed.choose_new(part[0])
        points = [point for row in rows for point in _metrics(feed.group, row)]
        for start in range(0, len(points), BATCH):
            client.log_batch(run_id, metrics=points[start : start + BATCH])
            batches += 1
        kept = [Candidate(row.step, row.time, row.numbers) for row in rows if row.numbers.get(KEPT)]
        log_candidates(client, run_id, feed.group, kept)
        feed.accept(*part)
    return True


def _metrics(group: str, row: Row) -> "list[Metric]":
    from mlflow.entities import Metric

    return [Metric(name, value, row.time, row.step) for name, value in metric_values(group, row)]


def describe_begun(spool: Spool) -> Begun | None:
    """The run that the result belongs to, with the rows that it holds; None if there is no run yet."""
    if not spool.state.run_id:
        return None
    return Begun(spool.state.run_id, {feed.group: feed.table for feed in spool.find_feeds() if feed.position})


def settle(client: "MlflowClient", spool: Spool) -> None:
    """Send the rest of a run whose flow has ended, and end it in MLflow."""
    state = spool.state
    if state.run_id and not is_missing(client, state.run_id):
        while deliver(client, spool):
            pass
        if client.get_run(state.run_id).info.status == "RUNNING":
            client.set_terminated(state.run_id, "KILLED" if state.status == "RUNNING" else state.status)
    state.is_settled = True
    spool.save()


def settle_abandoned(root: Path) -> None:
    """Settle the runs of flows that were killed, or whose server did not answer at their end.

    Raises UserError if MLflow does not answer now.
    """
    if list_unsettled(root):
        with connect(root) as client:
            for spool in find_abandoned(root):
                settle(client, spool)
                if spool.state.status == FINISHED:  # nobody continues it
                    spool.remove()
