"""Checks on the MLflow runs of an ablation."""

from pathlib import Path

import mlflow
from mlflow.entities import Run as MlflowRun

from flows.ablation.runs import PARENT
from flows.registry.store import tracking_uri


def all_runs(project: Path) -> list[MlflowRun]:
    """All runs of the project's MLflow experiment."""
    client = mlflow.MlflowClient(tracking_uri(project))
    (experiment,) = [e.experiment_id for e in client.search_experiments() if e.name == "onestep"]
    return list(client.search_runs([experiment]))


def other_states(project: Path) -> list[str]:
    """The states of the runs that are not finished."""
    return sorted(r.info.status for r in all_runs(project) if r.info.status != "FINISHED")


def mlflow_runs(project: Path) -> tuple[list[MlflowRun], list[MlflowRun]]:
    """The finished parent runs and child runs."""
    runs = [r for r in all_runs(project) if r.info.status == "FINISHED"]
    children = [r for r in runs if PARENT in r.data.tags]
    return [r for r in runs if r not in children], children


def check_runs(project: Path, members: int, measure: str = "ratio.fd.a") -> None:
    """Check that MLflow holds one parent with the comparison, and `members` children, each of another experiment."""
    (parent,), children = mlflow_runs(project)
    assert len(children) == len({r.data.tags["dvc.exp.name"] for r in children}) == members
    assert {r.data.tags[PARENT] for r in children} == {parent.info.run_id}
    assert all(r.info.run_name == r.data.tags["dvc.exp.name"] for r in children)
    assert all("**Outcome:** with 1 network pass" in r.data.tags["mlflow.note.content"] for r in children)
    assert all(r.data.params["train.seed"] in ("0", "1") and measure in r.data.metrics for r in children)
    client = mlflow.MlflowClient(tracking_uri(project))
    files = {f.path for f in client.list_artifacts(parent.info.run_id, "comparison")}
    assert files == {f"comparison/k.{ending}" for ending in ("json", "md", "html")}
