"""Checks on the MLflow runs of an ablation and on the processes that run in its project."""

from pathlib import Path

import mlflow
import psutil
from mlflow.entities import Run as MlflowRun

from flows.ablation.runs import PARENT
from flows.registry.store import tracking_uri
from flows.runtime.git import git


def mlflow_runs(project: Path) -> tuple[list[MlflowRun], list[MlflowRun]]:
    """The parent runs and the child runs; fails if any of them is not finished."""
    client = mlflow.MlflowClient(tracking_uri(project))
    (experiment,) = [e.experiment_id for e in client.search_experiments() if e.name == "onestep"]
    runs = client.search_runs([experiment])
    assert {r.info.status for r in runs} == {"FINISHED"}
    children = [r for r in runs if PARENT in r.data.tags]
    return [r for r in runs if r not in children], children


def check_runs(project: Path, members: int, measure: str = "ratio.fd.a") -> None:
    """Check that MLflow holds one parent with the comparison, and `members` children, each of another experiment."""
    (parent,), children = mlflow_runs(project)
    assert len(children) == len({r.data.tags["dvc.exp.name"] for r in children}) == members
    assert {r.data.tags[PARENT] for r in children} == {parent.info.run_id}
    assert all(r.data.params["train.seed"] in ("0", "1") and measure in r.data.metrics for r in children)
    client = mlflow.MlflowClient(tracking_uri(project))
    files = {f.path for f in client.list_artifacts(parent.info.run_id, "comparison")}
    assert files == {f"comparison/k.{ending}" for ending in ("json", "md", "html")}


def at_work(project: Path) -> list[psutil.Process]:
    """Processes whose working directory is the project's folder or one of its worktrees."""
    listed = git(project, "worktree", "list", "--porcelain") or ""
    places = [Path(line.removeprefix("worktree ")) for line in listed.splitlines() if line.startswith("worktree ")]
    processes = [p for p in psutil.process_iter(["cwd", "status"]) if p.info["status"] != "zombie"]
    return [p for p in processes if any(Path(p.info["cwd"] or "/").is_relative_to(place) for place in places)]
