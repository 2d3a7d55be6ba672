"""An ablation in MLflow: a parent run with the comparison, and one child run for each member. Each is logged once."""

import contextlib
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ruamel.yaml import YAML

from dmd.config import load_params
from flows.ablation import experiment
from flows.ablation.plan import Member
from flows.registry.result import LOSSES, SAMPLES, flatten, numeric_leaves
from flows.registry.store import experiment_id, lock_store
from flows.registry.tracking import close_stale_runs, log_curves
from flows.runtime.git import git
from flows.runtime.names import make_identifier

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

NAME, EXPERIMENT, COMMIT = "ablation.name", "dvc.exp.name", "git.sha"
PARENT = "mlflow.parentRunId"  # MLflow's own tag, by which its page nests runs


class _Store(NamedTuple):
    """The MLflow store, locked by this process."""

    client: "MlflowClient"
    experiment: str  # id of the MLflow experiment
    tags: dict[str, str]  # tags that identify the ablation at the present commit


def publish_member(root: Path, name: str, member: Member) -> None:
    """Log the run of a finished member. A finished run stays as it is; an incomplete run is replaced."""
    with _open(root, name) as store:
        tags = {**store.tags, PARENT: _parent(store, name), EXPERIMENT: member.experiment}
        runs = _find(store, tags)
        if any(run.info.status == "FINISHED" for run in runs):
            return
        for incomplete in runs:
            store.client.delete_run(incomplete.info.run_id)
        with _new_run(store, tags, f"{member.row} seed {member.seed}") as run:
            _log_member(store.client, run, root, member)


def publish_comparison(root: Path, name: str, files: list[Path]) -> str:
    """Log the present content of these files to the parent run; return its id."""
    with _open(root, name) as store:
        parent = _parent(store, name)
        for file in files:
            store.client.log_artifact(parent, str(file), "comparison")
        return parent


@contextlib.contextmanager
def _open(root: Path, name: str) -> Iterator[_Store]:
    tags = {NAME: make_identifier(name), COMMIT: git(root, "rev-parse", "HEAD") or "none"}
    with lock_store(root) as client:
        experiment = experiment_id(client, load_params(root / "params.yaml").register_.experiment)
        close_stale_runs(client, experiment)
        yield _Store(client, experiment, tags)


def _parent(store: _Store, name: str) -> str:
    """Id of the parent run. A new parent run is ended at once, since the ablation may be killed before its members."""
    parents = [run for run in _find(store, store.tags) if EXPERIMENT not in run.data.tags]
    if parents:
        return parents[-1].info.run_id
    with _new_run(store, store.tags, name) as run:
        return run


def _find(store: _Store, tags: dict[str, str]) -> list["Run"]:
    query = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
    return list(store.client.search_runs([store.experiment], query))


@contextlib.contextmanager
def _new_run(store: _Store, tags: dict[str, str], name: str) -> Iterator[str]:
    """Create a run that ends with the block, as failed if the block raises.

    If this process is killed, `close_stale_runs` of the next process ends the run.
    """
    publisher = {"publisher.host": socket.gethostname(), "publisher.pid": str(os.getpid())}
    run = store.client.create_run(store.experiment, tags={**tags, **publisher}, run_name=name).info.run_id
    try:
        yield run
    except BaseException:
        store.client.set_terminated(run, "FAILED")
        raise
    store.client.set_terminated(run, "FINISHED")


def _log_member(client: "MlflowClient", run: str, root: Path, member: Member) -> None:
    """Log parameters, measures, curves and pictures from the member's experiment."""
    yaml = YAML(typ="safe")
    for key, value in flatten(yaml.load(experiment.read(root, member, Path("params.yaml")))):
        client.log_param(run, key, value)
    if metrics := experiment.load_metrics(root, member):
        for key, value in numeric_leaves(metrics).items():
            client.log_metric(run, key, value)
    with tempfile.TemporaryDirectory() as folder:
        if losses := experiment.read(root, member, LOSSES):
            path = Path(folder) / LOSSES.name
            path.write_bytes(losses)
            log_curves(client, run, path)
        if samples := experiment.read(root, member, SAMPLES):
            path = Path(folder) / SAMPLES.name
            path.write_bytes(samples)
            client.log_artifact(run, str(path), "pictures")
