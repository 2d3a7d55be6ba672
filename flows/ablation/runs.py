"""An ablation in MLflow: a run for each member under one parent, which holds the comparison; each of them once."""

import contextlib
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ruamel.yaml import YAML

from dmd.config import load_params
from dmd.storage.worktree import main_worktree
from flows.ablation import experiment
from flows.ablation.plan import Member
from flows.registry.record import LOSSES, METRICS, SAMPLES, flatten, numbers
from flows.registry.store import experiment_id, opened
from flows.registry.tracking import close_stale_runs, log_curves
from flows.runtime.roots import git, only_one

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

NAME, EXPERIMENT, COMMIT = "ablation.name", "dvc.exp.name", "git.sha"
PARENT = "mlflow.parentRunId"  # MLflow's own tag, by which its page nests runs


class _Store(NamedTuple):
    """MLflow, held by this process; `tags` are those of the ablation at the present commit."""

    client: "MlflowClient"
    where: str
    tags: dict[str, str]


def publish_member(root: Path, name: str, member: Member) -> None:
    """The run of a member that is done. One that is there is left as it is; half of one is replaced."""
    with _store(root, name) as store:
        tags = {**store.tags, PARENT: _parent(store, name), EXPERIMENT: member.experiment}
        found = _find(store, tags)
        if any(run.info.status == "FINISHED" for run in found):
            return
        for half in found:
            store.client.delete_run(half.info.run_id)
        with _new_run(store, tags, f"{member.row} seed {member.seed}") as run:
            _log_member(store.client, run, root, member)


def publish_comparison(root: Path, name: str, files: list[Path]) -> str:
    """The id of the parent run, with these files as they are now."""
    with _store(root, name) as store:
        parent = _parent(store, name)
        for file in files:
            store.client.log_artifact(parent, str(file), "comparison")
        return parent


@contextlib.contextmanager
def _store(root: Path, name: str) -> Iterator[_Store]:
    tags = {NAME: name, COMMIT: git(root, "rev-parse", "HEAD") or "none"}
    with only_one(main_worktree(root) / "runs" / "publish.lock"), opened(root) as client:
        where = experiment_id(client, load_params(root / "params.yaml").register_.experiment)
        close_stale_runs(client, where)
        yield _Store(client, where, tags)


def _parent(store: _Store, name: str) -> str:
    """Found, or made and ended at once: an ablation may be killed at any time, and its members outlive it."""
    found = [run for run in _find(store, store.tags) if EXPERIMENT not in run.data.tags]
    if found:
        return found[-1].info.run_id
    with _new_run(store, store.tags, name) as run:
        return run


def _find(store: _Store, tags: dict[str, str]) -> list["Run"]:
    query = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
    return list(store.client.search_runs([store.where], query))


@contextlib.contextmanager
def _new_run(store: _Store, tags: dict[str, str], name: str) -> Iterator[str]:
    """A run that ends with the block, as failed if that raises; `close_stale_runs` sees to a killed publisher's."""
    publisher = {"publisher.host": socket.gethostname(), "publisher.pid": str(os.getpid())}
    run = store.client.create_run(store.where, tags={**tags, **publisher}, run_name=name).info.run_id
    try:
        yield run
    except BaseException:
        store.client.set_terminated(run, "FAILED")
        raise
    store.client.set_terminated(run, "FINISHED")


def _log_member(client: "MlflowClient", run: str, root: Path, member: Member) -> None:
    """Parameters, measures, curves and pictures, as the experiment has them."""
    yaml = YAML(typ="safe")
    for key, value in flatten(yaml.load(experiment.read(root, member, Path("params.yaml")))):
        client.log_param(run, key, value)
    for key, value in numbers(yaml.load(experiment.read(root, member, METRICS))).items():
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
