"""An ablation in MLflow: a parent run with the comparison, and one child run for each member. Each is logged once."""

import contextlib
import os
import socket
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ruamel.yaml import YAML

from dmd.config import load_params, validate
from dmd.yaml_files import parse_yaml
from flows.ablation import experiment
from flows.ablation.plan import Member
from flows.registry.candidates import log_recorded
from flows.registry.description import describe_run, find_changes
from flows.registry.figures import judge_tags, list_constants, list_metrics
from flows.registry.result import EXPERIMENT, GENERATOR, LOSSES, SAMPLES, flatten
from flows.registry.store import experiment_id, lock_store
from flows.registry.tracking import DESCRIPTION, TRAIN, Begun, close_stale_runs, is_missing, log_curves
from flows.runtime.git import show_file
from flows.runtime.names import make_identifier

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

NAME, COMMIT = "ablation.name", "git.sha"
PARENT = "mlflow.parentRunId"  # MLflow's own tag, by which its page nests runs


class _Store(NamedTuple):
    """The MLflow store, locked by this process."""

    client: "MlflowClient"
    experiment: str  # id of the MLflow experiment
    tags: dict[str, str]  # tags that identify the ablation at its commit


def begin(root: Path, name: str, commit: str) -> dict[str, str]:
    """Create the parent run of an ablation of a commit if there is none; return the tags of its members."""
    with _open(root, name, commit) as store:
        return {**store.tags, PARENT: _parent(store, name)}


def publish_member(root: Path, name: str, member: Member, begun: Begun | None = None) -> None:
    """Log a finished member to its run that has begun, or to a new one.

    A finished run stays as it is; any other run of the member is replaced.
    """
    with _open(root, name, member.commit) as store:
        tags = {**store.tags, PARENT: _parent(store, name), EXPERIMENT: member.experiment}
        runs = {run.info.run_id: run.info.status for run in _find(store, tags)}
        is_finished = "FINISHED" in runs.values()
        live = begun.run_id if begun and begun.run_id in runs and not is_finished else None
        if begun and begun.run_id not in runs and not is_missing(store.client, begun.run_id):
            store.client.delete_run(begun.run_id)  # the member's parameters name another MLflow experiment
        for run, status in runs.items():
            if status != "FINISHED" and run != live:
                store.client.delete_run(run)
        if is_finished:
            return
        with _end_with_block(store.client, live) if live else _new_run(store, tags, member.experiment) as run:
            _log_member(store.client, run, root, member, begun if live else None)


def drop_members(root: Path, name: str, members: Sequence[Member]) -> None:
    """Delete the runs of members that others have taken the place of."""
    for member in members:
        with _open(root, name, member.commit) as store:
            for run in _find(store, {**store.tags, EXPERIMENT: member.experiment}):
                store.client.delete_run(run.info.run_id)


def publish_comparison(root: Path, name: str, commit: str, files: list[Path]) -> str:
    """Log the present content of these files to the parent run; return its id."""
    with _open(root, name, commit) as store:
        parent = _parent(store, name)
        for file in files:
            store.client.log_artifact(parent, str(file), "comparison")
        return parent


@contextlib.contextmanager
def _open(root: Path, name: str, commit: str) -> Iterator[_Store]:
    tags = {NAME: make_identifier(name), COMMIT: commit or "none"}
    with lock_store(root) as client:
        experiment = experiment_id(client, _name_experiment(root, commit))
        close_stale_runs(client, experiment)
        yield _Store(client, experiment, tags)


def _name_experiment(root: Path, commit: str) -> str:
    """Name of the MLflow experiment in params.yaml of a commit, or in that of the folder if the commit has none."""
    text = show_file(root, commit, "params.yaml")
    if text is None:
        return load_params(root / "params.yaml").register_.experiment
    where = f"params.yaml of commit {commit[:12]}"
    return validate(parse_yaml(text.decode(), where), where).register_.experiment


def _parent(store: _Store, name: str) -> str:
    """Id of the parent run. A new parent run is ended at once, since the ablation may be killed before its members."""
    parents = [run for run in _find(store, store.tags) if EXPERIMENT not in run.data.tags]
    if parents:
        return parents[0].info.run_id
    with _new_run(store, store.tags, name) as run:
        return run


def _find(store: _Store, tags: dict[str, str]) -> list["Run"]:
    """Return the runs with these tags, the oldest first: MLflow answers with 1,000, which must hold the parent."""
    query = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
    return list(store.client.search_runs([store.experiment], query, order_by=["attributes.start_time ASC"]))


@contextlib.contextmanager
def _new_run(store: _Store, tags: dict[str, str], name: str) -> Iterator[str]:
    """Create a run that ends with the block, as failed if the block raises.

    If this process is killed, `close_stale_runs` of the next process ends the run.
    """
    publisher = {"publisher.host": socket.gethostname(), "publisher.pid": str(os.getpid())}
    run = store.client.create_run(store.experiment, tags={**tags, **publisher}, run_name=name).info.run_id
    with _end_with_block(store.client, run):
        yield run


@contextlib.contextmanager
def _end_with_block(client: "MlflowClient", run: str) -> Iterator[str]:
    try:
        yield run
    except BaseException:
        client.set_terminated(run, "FAILED")
        raise
    client.set_terminated(run, "FINISHED")


def _log_member(client: "MlflowClient", run: str, root: Path, member: Member, begun: Begun | None) -> None:
    """Log description, parameters, measures, curves, candidates and pictures from the member's experiment."""
    text = (experiment.read(root, member, Path("params.yaml")) or b"").decode()
    # In the form in which a run that has begun has them: MLflow takes no other value for a parameter that is set.
    values = validate(YAML(typ="safe").load(text), f"{member.experiment}: params.yaml").model_dump(by_alias=True)
    params = dict(flatten(values))
    if metrics := experiment.load_metrics(root, member):
        tags = {DESCRIPTION: describe_run(find_changes(root, text, member.commit), metrics), **judge_tags(metrics)}
        for key, value in tags.items():
            client.set_tag(run, key, value)
        params |= list_constants(metrics)
        for key, value in list_metrics(metrics).items():
            client.log_metric(run, key, value)
    for key, value in params.items():
        client.log_param(run, key, value)
    with tempfile.TemporaryDirectory() as folder:
        if losses := experiment.read(root, member, LOSSES):
            path = Path(folder) / LOSSES.name
            path.write_bytes(losses)
            log_curves(client, run, path, held=begun.points(TRAIN) if begun else None)
            weights = {"dvc.path": GENERATOR.as_posix(), EXPERIMENT: member.experiment}
            log_recorded(client, run, TRAIN, path, weights)
        if samples := experiment.read(root, member, SAMPLES):
            path = Path(folder) / SAMPLES.name
            path.write_bytes(samples)
            client.log_artifact(run, str(path), "pictures")
