"""Which MLflow store, always by an absolute address: a stage or a flow may run in a folder that is deleted later."""

import contextlib
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from dmd.errors import UserError
from dmd.storage.worktree import main_worktree
from flows.runtime.errors import one_line

if TYPE_CHECKING:
    from mlflow import MlflowClient

SQLITE = "sqlite:///"
PATIENCE = 15  # seconds


def tracking_uri(root: Path) -> str:
    """MLFLOW_TRACKING_URI, or a database of the project's own in its main worktree."""
    main = main_worktree(root)
    uri = os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    if not uri:
        return f"{SQLITE}{main / 'runs' / 'mlflow' / 'mlflow.db'}"
    if uri.startswith(SQLITE):
        return f"{SQLITE}{main / uri.removeprefix(SQLITE)}"  # an absolute path stays as it is
    if uri.startswith("file:") or "://" not in uri:
        raise UserError(f"MLFLOW_TRACKING_URI: {uri!r} is a file store, no longer written by MLflow; use {SQLITE}PATH")
    return uri


def database(uri: str) -> Path | None:
    """The file of a sqlite store."""
    return Path(uri.removeprefix(SQLITE)) if uri.startswith(SQLITE) else None


def check_reachable(uri: str) -> None:
    """One line after seconds, where MLflow's own retries would take minutes."""
    if not uri.startswith(("http://", "https://")):
        return
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=PATIENCE):
            return
    except urllib.error.HTTPError:
        return  # somebody answers; whether we may in is for MLflow's client to say
    except OSError as e:
        reason = getattr(e, "reason", None) or e
        raise UserError(
            f"the MLflow server {uri} can't be reached ({reason}): start it, or unset MLFLOW_TRACKING_URI"
        ) from e


@contextlib.contextmanager
def opened(root: Path) -> Iterator["MlflowClient"]:
    """A client, with MLflow's process-wide address set for the time of the block; its errors become one line."""
    uri = tracking_uri(root)
    check_reachable(uri)
    if file := database(uri):
        file.parent.mkdir(parents=True, exist_ok=True)
    import mlflow  # seconds; not paid by a command that stops before this point

    before = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(uri)
    try:
        yield mlflow.MlflowClient()
    except mlflow.MlflowException as e:
        raise UserError(f"MLflow at {uri}: {one_line(e)}") from e
    finally:
        mlflow.set_tracking_uri(None)  # pyright: ignore[reportArgumentType] - its own value for "not set"
        if before is not None:
            os.environ["MLFLOW_TRACKING_URI"] = before


def experiment_id(client: "MlflowClient", name: str) -> str:
    """Find or create; the files of a sqlite store lie beside its database, whatever the working directory."""
    found = client.get_experiment_by_name(name)
    if found is None:
        file = database(client.tracking_uri)
        return client.create_experiment(name, artifact_location=(file.parent / "artifacts").as_uri() if file else None)
    if found.lifecycle_stage != "active":
        raise UserError(f"the MLflow experiment {name!r} was deleted; restore it, or set register.experiment")
    return found.experiment_id
