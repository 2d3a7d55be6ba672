"""Publish the workspace's result to MLflow once. Members of an ablation go another way: flows/ablation/runs.py.

Everything is read from files, so a result that DVC restores from its cache also gives a complete MLflow run.
"""

import math
import socket
import tempfile
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd
import psutil

from evaluation.report.lineage import add_lineage
from flows.registry import result as paths
from flows.registry.candidates import log_recorded
from flows.registry.description import describe_run, find_changes
from flows.registry.figures import judge_tags, list_constants, list_metrics
from flows.registry.result import EXPERIMENT, RESULT, Result, flatten, lineage_tags, load_result, locate_weights
from flows.registry.store import experiment_id, lock_store

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

BATCH = 1000  # metrics in one request: MLflow's limit
DESCRIPTION = "mlflow.note.content"  # MLflow's own tag of a description
PUBLISHER_SINCE = "publisher.since"  # tag: milliseconds since 1970, if the publisher is not the one that began the run
TRAIN, TEACHER = "train/", "teacher/"  # groups of the metrics of curves
CURVES = {TRAIN: (paths.LOSSES, "turn"), TEACHER: (paths.TEACHER_LOSSES, "step")}  # their files and x


class Begun(NamedTuple):
    """A run that exists since the start of a flow, in which its trainings can be watched."""

    run_id: str
    # For the name of each group of curves, the function that returns the points that the run holds already: a column
    # for each curve, indexed by the step.
    held: Mapping[str, Callable[[], pd.DataFrame]]

    def points(self, group: str) -> pd.DataFrame | None:
        """The points that the run holds of a group."""
        return self.held[group]() if group in self.held else None


def publish(root: Path, flow_run: str | None = None, experiment: str | None = None, begun: Begun | None = None) -> str:
    """Return the id of the finished run that holds the workspace's result, and log it if there is none.

    `flow_run` is the id of the Prefect flow run, `experiment` the name of the DVC experiment, `begun` the run to
    complete. If the flow has trained nothing and the result has a finished run, `begun` is deleted.
    """
    result = load_result(root)
    with lock_store(root) as client:
        mlflow_experiment = experiment_id(client, result.params.register_.experiment)
        close_stale_runs(client, mlflow_experiment)
        begun = None if begun is None or is_missing(client, begun.run_id) else begun
        finished = find_run(client, mlflow_experiment, result.digest)
        if finished and begun and not begun.held and begun.run_id != finished:
            client.delete_run(begun.run_id)
        if finished and (begun is None or not begun.held or begun.run_id == finished):
            return finished
        tags = lineage_tags(result, flow_run, experiment)
        return _log_run(client, mlflow_experiment, result, tags, begun or Begun("", {}))


def end_partial(root: Path, begun: Begun | None, stages: Collection[str]) -> str | None:
    """End the run of a flow that was to run some stages only, with the record of their trainings; return its id.

    If they trained nothing the run is deleted, and None returned, as for a run that MLflow could not create.
    """
    if begun is None:
        return None
    with lock_store(root) as client:
        if is_missing(client, begun.run_id):
            return None
        if not begun.held:
            client.delete_run(begun.run_id)
            return None
        groups = [group for group in CURVES if group.rstrip("/") in stages]
        _log_curves(client, begun.run_id, root, {group: CURVES[group] for group in groups}, begun)
        if TRAIN in groups:
            log_recorded(client, begun.run_id, TRAIN, root / paths.LOSSES, locate_weights(root))
        client.set_terminated(begun.run_id, "FINISHED")
        return begun.run_id


def is_missing(client: "MlflowClient", run_id: str) -> bool:
    """Whether a run does not exist, or a user has deleted it."""
    from mlflow import MlflowException

    try:
        return client.get_run(run_id).info.lifecycle_stage != "active"
    except MlflowException as e:
        if e.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return True


def find_run(client: "MlflowClient", experiment: str, digest: str) -> str | None:
    """Id of the finished run that holds a result, else None. An interrupted run is incomplete and does not count."""
    query = f"tags.`{RESULT}` = '{digest}' and attributes.status = 'FINISHED'"
    runs = client.search_runs([experiment], query, order_by=["attributes.start_time ASC"], max_results=1)
    return runs[0].info.run_id if runs else None


def close_stale_runs(client: "MlflowClient", experiment: str) -> None:
    """End runs on this host whose publishing process was killed."""
    query = f"tags.`publisher.host` = '{socket.gethostname()}' and attributes.status = 'RUNNING'"
    for run in client.search_runs([experiment], query):
        if not _is_publishing(run):
            client.set_terminated(run.info.run_id, "KILLED")


def _is_publishing(run: "Run") -> bool:
    """Whether the publisher of the run is alive. A process that has its pid but began after the run is another one."""
    try:
        began = psutil.Process(int(run.data.tags["publisher.pid"])).create_time()
    except (psutil.NoSuchProcess, KeyError, ValueError):
        return False
    return began * 1000 <= max(run.info.start_time, int(run.data.tags.get(PUBLISHER_SINCE, 0)))


def _log_run(client: "MlflowClient", experiment: str, result: Result, tags: dict[str, str], begun: Begun) -> str:
    """Log a result to the run that has begun, or to a new one; return its id."""
    import mlflow

    # A run in the workspace has no experiment, and is named after its model and its result.
    name = tags.get(EXPERIMENT) or f"{result.params.register_.name}-{result.digest[:8]}"
    changes = find_changes(result.root, (result.root / "params.yaml").read_text())
    about = describe_run(changes, result.metrics)
    tags |= judge_tags(result.metrics)
    mlflow.set_experiment(experiment_id=experiment)  # start_run refuses a run of another experiment than the last one
    # An exception in the block ends the run as FAILED.
    with mlflow.start_run(begun.run_id or None, experiment, name, tags=tags, description=about) as run:
        params = dict(flatten(result.params.model_dump(by_alias=True)))
        mlflow.log_params(params | list_constants(result.metrics, result.timing))
        mlflow.log_metrics(list_metrics(result.metrics, result.timing))
        _log_curves(client, run.info.run_id, result.root, CURVES, begun)
        log_recorded(client, run.info.run_id, TRAIN, result.root / paths.LOSSES, locate_weights(result.root))
        _log_dataset(result, tags)
        _log_files(result, {**tags, "mlflow.run_id": run.info.run_id, "published": time.strftime("%Y-%m-%d")})
    return run.info.run_id


def _log_curves(
    client: "MlflowClient", run_id: str, root: Path, curves: Mapping[str, tuple[Path, str]], begun: Begun
) -> None:
    for group, (file, axis) in curves.items():
        if (root / file).exists():  # a result of an earlier version has no losses of the teacher
            log_curves(client, run_id, root / file, group, axis, begun.points(group))


def log_curves(
    client: "MlflowClient",
    run_id: str,
    path: Path,
    group: str = TRAIN,
    axis: str = "turn",
    held: pd.DataFrame | None = None,
) -> None:
    """Log every numeric column of a csv file against its column `axis`; an empty cell gives no point.

    held: points that the run has already, a column for each curve; an equal point is not logged again.
    """
    from mlflow.entities import Metric

    table = pd.read_csv(path).set_index(axis).select_dtypes("number")
    known = (pd.DataFrame() if held is None else held).reindex(index=table.index, columns=table.columns)
    missing = table.where(table != known)
    now = int(time.time() * 1000)
    points = [
        Metric(f"{group}{column}", float(value), now, int(turn))
        for column in missing
        for turn, value in zip(table.index.tolist(), missing[column].tolist(), strict=True)
        if not math.isnan(value)
    ]
    for start in range(0, len(points), BATCH):
        client.log_batch(run_id, metrics=points[start : start + BATCH])


def _log_dataset(result: Result, tags: dict[str, str]) -> None:
    import mlflow
    from mlflow.data.code_dataset_source import CodeDatasetSource
    from mlflow.data.meta_dataset import MetaDataset

    origin: dict[str, Any] = {"dvc.path": paths.DATA.as_posix(), "dvc.md5": result.data_md5, "git.sha": tags["git.sha"]}
    data = MetaDataset(CodeDatasetSource(origin), name=result.params.data.source, digest=result.data_md5[:8])
    mlflow.log_input(data, context="training")


def _log_files(result: Result, lineage: dict[str, str]) -> None:
    """Log files, pictures and the report. Lineage goes into a copy, since DVC's report must be equal in equal runs."""
    import mlflow

    root = result.root
    graph = (Path("params.yaml"), Path("dvc.yaml"), Path("dvc.lock"))
    for name in (*graph, paths.METRICS, paths.DETAILS, paths.TIMING):
        mlflow.log_artifact(str(root / name), "record")
    mlflow.log_artifact(str(root / paths.SAMPLES), "pictures")
    mlflow.log_artifacts(str(root / paths.PLOTS), "plots")
    for grid in sorted((root / paths.TRAINING).glob("*.png")):
        mlflow.log_artifact(str(grid), "pictures/training")
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / paths.REPORT.name
        copy.write_text(add_lineage((root / paths.REPORT).read_text(), lineage))
        mlflow.log_artifact(str(copy), "report")
