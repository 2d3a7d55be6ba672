"""An ablation in MLflow: one parent run with the comparison, a run under it for each member, each of them once."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ruamel.yaml import YAML

from dmd.config import load_params
from flows.ablation import Member
from flows.record import LOSSES, flatten, numbers
from flows.roots import git, main_worktree, only_one
from flows.store import experiment_id, opened
from flows.tracking import log_curves

if TYPE_CHECKING:
    from mlflow import MlflowClient

NAME, EXPERIMENT, COMMIT = "ablation.name", "dvc.exp.name", "git.sha"
PARENT = "mlflow.parentRunId"  # MLflow's own tag, by which its page nests runs


def publish_ablation(root: Path, name: str, results: dict[Member, dict[str, Any] | None], files: list[Path]) -> str:
    """The parent run's id; `files` are logged to it. What is there already is left as it is, but for the files."""
    commit = git(root, "rev-parse", "HEAD") or "none"
    with only_one(main_worktree(root) / "runs" / "publish.lock"), opened(root) as client:
        where = experiment_id(client, load_params(root / "params.yaml").register_.experiment)
        tags = {NAME: name, COMMIT: commit}
        parent = _find(client, where, tags) or client.create_run(where, tags=tags, run_name=name).info.run_id
        with _closing(client, parent):
            for member, metrics in results.items():
                if metrics is not None:
                    _publish_member(client, root, where, {**tags, PARENT: parent}, member, metrics)
            for file in files:
                client.log_artifact(parent, str(file), "comparison")
        return parent


def _publish_member(
    client: "MlflowClient", root: Path, where: str, tags: dict[str, str], member: Member, metrics: dict[str, Any]
) -> None:
    tags = {**tags, EXPERIMENT: member.experiment}
    if _find(client, where, tags):
        return
    run = client.create_run(where, tags=tags, run_name=f"{member.row} seed {member.seed}").info.run_id
    with _closing(client, run):
        for key, value in flatten(YAML(typ="safe").load(_of(root, tags[COMMIT], member, Path("params.yaml")))):
            client.log_param(run, key, value)
        for key, value in numbers(metrics).items():
            client.log_metric(run, key, value)
        if losses := _of(root, tags[COMMIT], member, LOSSES):
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / LOSSES.name
                path.write_text(losses + "\n")
                log_curves(client, run, path)


def _of(root: Path, commit: str, member: Member, path: Path) -> str:
    """A file as the experiment has it."""
    return git(root, "show", f"refs/exps/{commit[:2]}/{commit[2:]}/{member.experiment}:{path.as_posix()}") or ""


def _find(client: "MlflowClient", where: str, tags: dict[str, str]) -> str | None:
    """A finished run with these tags; for a parent, one that is no child."""
    query = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
    runs = client.search_runs([where], f"{query} and attributes.status = 'FINISHED'")
    found = [r.info.run_id for r in runs if EXPERIMENT in tags or EXPERIMENT not in r.data.tags]
    return found[-1] if found else None


@contextlib.contextmanager
def _closing(client: "MlflowClient", run: str) -> Iterator[None]:
    """End the run with the block, as failed if that raises: no dead run is left as running."""
    try:
        yield
    except BaseException:
        client.set_terminated(run, "FAILED")
        raise
    client.set_terminated(run, "FINISHED")
