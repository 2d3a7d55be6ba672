"""Publish the workspace's result to MLflow once. Members of an ablation go another way: flows/ablation/runs.py.

Everything is read from files, so a result that DVC restores from its cache also gives a complete MLflow run.
"""

import math
import socket
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import psutil

from evaluation.report.lineage import add_lineage
from flows.registry import result as paths
from flows.registry.result import RESULT, Result, flatten, lineage_tags, load_result, numeric_leaves
from flows.registry.store import experiment_id, lock_store

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

BATCH = 1000  # metrics in one request: MLflow's limit


def publish(root: Path, flow_run: str | None = None, experiment: str | None = None) -> str:
    """Return the id of the finished run that holds the workspace's result, and create that run if there is none.

    `flow_run` is the id of the Prefect flow run, `experiment` the name of the DVC experiment.
    """
    result = load_result(root)
    with lock_store(root) as client:
        mlflow_experiment = experiment_id(client, result.params.register_.experiment)
        close_stale_runs(client, mlflow_experiment)
        finished = find_run(client, mlflow_experiment, result.digest)
        return finished or _log_run(client, mlflow_experiment, result, lineage_tags(result, flow_run, experiment))


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
    return began * 1000 <= run.info.start_time


def _log_run(client: "MlflowClient", experiment: str, result: Result, tags: dict[str, str]) -> str:
    import mlflow

    name = f"{result.params.method.name}-{result.digest[:8]}"
    # An exception in the block ends the run as FAILED.
    with mlflow.start_run(experiment_id=experiment, run_name=name, tags=tags) as run:
        params = flatten(result.params.model_dump(by_alias=True))
        mlflow.log_params({key: value for key, value in params})
        mlflow.log_metrics(numeric_leaves(result.metrics) | numeric_leaves(result.timing, "timing"))
        log_curves(client, run.info.run_id, result.root / paths.LOSSES)
        _log_dataset(result, tags)
        _log_files(result, {**tags, "mlflow.run_id": run.info.run_id, "published": time.strftime("%Y-%m-%d")})
    return run.info.run_id


def log_curves(client: "MlflowClient", run_id: str, path: Path) -> None:
    """Log every numeric column of a csv file against its column `turn`; an empty cell gives no point."""
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
    for name in (Path("params.yaml"), Path("dvc.yaml"), Path("dvc.lock"), paths.METRICS, paths.TIMING):
        mlflow.log_artifact(str(root / name), "record")
    mlflow.log_artifact(str(root / paths.SAMPLES), "pictures")
    mlflow.log_artifacts(str(root / paths.PLOTS), "plots")
    for grid in sorted((root / paths.TRAINING).glob("*.png")):
        mlflow.log_artifact(str(grid), "pictures/training")
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / paths.REPORT.name
        copy.write_text(add_lineage((root / paths.REPORT).read_text(), lineage))
        mlflow.log_artifact(str(copy), "report")
