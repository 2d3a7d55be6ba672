"""Publish a result from DVC's record to MLflow, once: a result restored from the cache gives a complete run, too."""

import math
import socket
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import psutil

from dmd.storage.worktree import main_worktree
from evaluation.report.page import add_lineage
from flows.registry import record as files
from flows.registry.record import RESULT, Record, flatten, lineage, numbers, read_record
from flows.registry.store import experiment_id, opened
from flows.runtime.roots import only_one

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

BATCH = 1000  # MLflow takes no more metrics at once


def publish(root: Path, flow_run: str | None = None, experiment: str | None = None) -> str:
    """The id of the finished run that holds this result; a new one only where there is none yet."""
    record = read_record(root)
    with only_one(main_worktree(root) / "runs" / "publish.lock"), opened(root) as client:
        where = experiment_id(client, record.params.register_.experiment)
        close_stale_runs(client, where)
        found = find_run(client, where, record.result)
        return found or _log_run(client, where, record, lineage(record, flow_run, experiment))


def find_run(client: "MlflowClient", experiment: str, result: str) -> str | None:
    """A run that was interrupted midway holds half a result and does not count."""
    query = f"tags.`{RESULT}` = '{result}' and attributes.status = 'FINISHED'"
    runs = client.search_runs([experiment], query, order_by=["attributes.start_time ASC"], max_results=1)
    return runs[0].info.run_id if runs else None


def close_stale_runs(client: "MlflowClient", experiment: str) -> None:
    """Close runs whose publisher on this host died without a chance to say so."""
    query = f"tags.`publisher.host` = '{socket.gethostname()}' and attributes.status = 'RUNNING'"
    for run in client.search_runs([experiment], query):
        if not _is_publishing(run):
            client.set_terminated(run.info.run_id, "KILLED")


def _is_publishing(run: "Run") -> bool:
    """A process of that number that began after the run is another one."""
    try:
        began = psutil.Process(int(run.data.tags["publisher.pid"])).create_time()
    except (psutil.NoSuchProcess, KeyError, ValueError):
        return False
    return began * 1000 <= run.info.start_time


def _log_run(client: "MlflowClient", experiment: str, record: Record, tags: dict[str, str]) -> str:
    import mlflow

    name = f"{record.params.method.name}-{record.result[:8]}"
    with mlflow.start_run(experiment_id=experiment, run_name=name, tags=tags) as run:  # FAILED, if anything raises
        params = flatten(record.params.model_dump(by_alias=True))
        mlflow.log_params({key: value for key, value in params})
        mlflow.log_metrics({**numbers(record.metrics), **numbers(record.timing, "timing")})
        log_curves(client, run.info.run_id, record.root / files.LOSSES)
        _log_dataset(record, tags)
        _log_files(record, {**tags, "mlflow.run_id": run.info.run_id})
    return run.info.run_id


def log_curves(client: "MlflowClient", run_id: str, path: Path) -> None:
    """Every numeric column against `turn`; an empty cell is no point."""
    from mlflow.entities import Metric

    table = pd.read_csv(path)
    turns = [int(turn) for turn in table.pop("turn")]
    now = int(time.time() * 1000)
    points = [
        Metric(f"train.{column}", float(value), now, turn)
        for column in table.select_dtypes("number")
        for turn, value in zip(turns, table[column].tolist(), strict=True)
        if not math.isnan(value)
    ]
    for start in range(0, len(points), BATCH):
        client.log_batch(run_id, metrics=points[start : start + BATCH])


def _log_dataset(record: Record, tags: dict[str, str]) -> None:
    import mlflow
    from mlflow.data.code_dataset_source import CodeDatasetSource
    from mlflow.data.meta_dataset import MetaDataset

    where: dict[str, Any] = {"dvc.path": files.DATA.as_posix(), "dvc.md5": record.data_md5, "git.sha": tags["git.sha"]}
    data = MetaDataset(CodeDatasetSource(where), name=record.params.data.source, digest=record.data_md5[:8])
    mlflow.log_input(data, context="training")


def _log_files(record: Record, facts: dict[str, str]) -> None:
    """The report gets its lineage here, in a copy: the original is an out of DVC, and equal in every run."""
    import mlflow

    root = record.root
    for path in (root / "params.yaml", root / "dvc.yaml", root / "dvc.lock", root / files.METRICS, root / files.TIMING):
        mlflow.log_artifact(str(path), "record")
    mlflow.log_artifact(str(root / files.SAMPLES), "pictures")
    mlflow.log_artifacts(str(root / files.PLOTS), "plots")
    for grid in sorted((root / files.PROGRESS).glob("*.png")):
        mlflow.log_artifact(str(grid), "pictures/training")
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / files.REPORT.name
        copy.write_text(add_lineage((root / files.REPORT).read_text(), facts))
        mlflow.log_artifact(str(copy), "report")
