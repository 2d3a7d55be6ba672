"""The MLflow store of a project. Its address is absolute, since a stage or flow may run in a temporary worktree."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from dmd.errors import UserError
from dmd.redaction import redact
from dmd.storage.worktree import main_worktree
from evaluation.sources import mlflow_database
from flows.runtime.database import MLFLOW, prepare_database
from flows.runtime.errors import one_line
from flows.runtime.file_lock import hold_lock
from flows.runtime.reach import find_silence

if TYPE_CHECKING:
    from mlflow import MlflowClient

SQLITE = "sqlite:///"
REGISTRY = "MLFLOW_REGISTRY_URI"  # environment variable; the tracking server is the registry, too, unless it is set
# MLflow's tag for the pages of an experiment, and its value for those of model training (not GenAI's).
KIND = {"mlflow.experimentKind": "custom_model_development"}
WRITE_ATTEMPTS = 5  # if other processes write the same rows
SERVED = "mlflow-artifacts:"  # scheme of files that can be written through the server alone


def tracking_uri(root: Path) -> str:
    """MLFLOW_TRACKING_URI, or a database in the project's main worktree. Raises UserError for a file store."""
    uri = os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    if not uri:
        return f"{SQLITE}{mlflow_database(root)}"
    if uri.startswith(SQLITE):
        return f"{SQLITE}{main_worktree(root) / uri.removeprefix(SQLITE)}"  # an absolute path stays as it is
    if uri.startswith("file:") or "://" not in uri:
        raise UserError(
            f"MLFLOW_TRACKING_URI: {redact(uri)!r} is a file store, not supported by MLflow; use {SQLITE}PATH"
        )
    return uri


def shown_uri(root: Path) -> str:
    """Return the address of the store without a password, to print."""
    return redact(tracking_uri(root))


def database(uri: str) -> Path | None:
    """The file of a sqlite store; None for a server."""
    return Path(uri.removeprefix(SQLITE)) if uri.startswith(SQLITE) else None


def check_reachable(uri: str) -> None:
    """Raise UserError within seconds if a server does not answer; MLflow's own retries take minutes."""
    for variable, address in (("MLFLOW_TRACKING_URI", uri), (REGISTRY, os.environ.get(REGISTRY, ""))):
        if reason := find_silence(address, "/health"):
            server = redact(address)
            raise UserError(f"the MLflow server {server} can't be reached ({reason}): start it, or unset {variable}")


def check_store(root: Path, experiment: str, model: str | None) -> None:
    """Check that the store takes a result: open it, create the experiment, and look the model up.

    Raises UserError with the remedy. `model` is None if no version is to be registered.
    """
    with lock_store(root) as client:
        with _explain_refusal("register.experiment", experiment):
            experiment_id(client, experiment)
        if model is not None:
            with _explain_refusal("register.name", model):
                client.get_registered_model(model)


@contextlib.contextmanager
def _explain_refusal(key: str, name: str) -> Iterator[None]:
    """Name the key of a name that MLflow does not allow; that it does not exist yet is no mistake."""
    from mlflow import MlflowException

    try:
        yield
    except MlflowException as e:
        if e.error_code == "INVALID_PARAMETER_VALUE":
            raise UserError(f"{key}: MLflow refuses {name!r}: {one_line(e)}") from e
        if e.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise


@contextlib.contextmanager
def connect(root: Path) -> Iterator["MlflowClient"]:
    """Yield a client, for any thread. Raises UserError if the store does not answer, and for MLflow's errors."""
    uri = tracking_uri(root)
    check_reachable(uri)
    if file := database(uri):
        prepare_database(file, MLFLOW)
    import mlflow  # takes seconds; imported here so that a command with a mistake fails at once
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield mlflow.MlflowClient(uri)
    except (mlflow.MlflowException, SQLAlchemyError, OSError) as e:  # OSError: files, and the answers about them
        raise UserError(f"MLflow at {redact(uri)}: {one_line(e)[:300]}") from e
    except ModuleNotFoundError as e:  # a driver of a database
        raise UserError(f"MLflow at {redact(uri)} needs a driver: pip install {e.name}") from e


@contextlib.contextmanager
def open_store(root: Path) -> Iterator["MlflowClient"]:
    """Connect, and set MLflow's process-wide address for the block, which only the main thread may do."""
    with connect(root) as client:
        import mlflow

        before = os.environ.get("MLFLOW_TRACKING_URI")
        mlflow.set_tracking_uri(client.tracking_uri)
        try:
            yield client
        finally:
            mlflow.set_tracking_uri(None)  # pyright: ignore[reportArgumentType] - MLflow's value for "not set"
            if before is not None:
                os.environ["MLFLOW_TRACKING_URI"] = before


@contextlib.contextmanager
def lock_store(root: Path) -> Iterator["MlflowClient"]:
    """Open the store for writing, which one process of the project does at a time."""
    with hold_lock(main_worktree(root) / "runs" / "publish.lock"), open_store(root) as client:
        yield client


def experiment_id(client: "MlflowClient", name: str) -> str:
    """Find or create an MLflow experiment of the kind that trains models, unless a user has chosen another kind.

    A sqlite store keeps its artifacts beside the database.
    """
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        file = database(client.tracking_uri)
        return client.create_experiment(name, (file.parent / "artifacts").as_uri() if file else None, KIND)
    if experiment.artifact_location.startswith(SERVED) and not client.tracking_uri.startswith("http"):
        raise UserError(
            f"a server keeps the files of the MLflow experiment {name!r}: start it (make up), set MLFLOW_TRACKING_URI "
            "to its address, or choose another register.experiment"
        )
    if experiment.lifecycle_stage != "active":
        raise UserError(f"the MLflow experiment {name!r} was deleted; restore it, or set register.experiment")
    for key in KIND.keys() - experiment.tags.keys():
        client.set_experiment_tag(experiment.experiment_id, key, KIND[key])
    return experiment.experiment_id


def write_beside_others(write: Callable[[], None]) -> None:
    """Create a tag or an alias while another process may create the same one.

    MLflow first looks for a row and then inserts it, so one of two processes fails. Its next attempt finds the row.
    """
    from mlflow import MlflowException

    for _ in range(WRITE_ATTEMPTS - 1):
        with contextlib.suppress(MlflowException):
            return write()
    return write()
