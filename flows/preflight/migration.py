"""Migrates MLflow's database beside the other checks of a run: MLflow takes seconds to say that it cannot use one."""

import threading
from concurrent.futures import Future
from pathlib import Path

from flows.preflight.run import Run
from flows.registry.store import database, tracking_uri
from flows.runtime.database import MLFLOW, is_current, prepare_database

_begun: dict[Path, "Future[None]"] = {}


def begin_migration(run: Run) -> None:
    """Begin to bring a database that exists to the installed version of MLflow, if the run publishes to it.

    A new database is made only after the checks, so that a run that is refused leaves none.
    """
    file = database(tracking_uri(run.root)) if run.publishes else None
    if file is None or not file.is_file() or file in _begun or is_current(file, MLFLOW):
        return
    _begun[file] = done = Future()
    threading.Thread(target=_migrate, args=(file, done), daemon=True).start()


def finish_migration() -> None:
    """Wait for what has begun. Raises UserError, with the remedy, if MLflow cannot use the database."""
    for file in list(_begun):
        _begun.pop(file).result()


def _migrate(file: Path, done: "Future[None]") -> None:
    try:
        prepare_database(file, MLFLOW)
        done.set_result(None)
    except BaseException as e:
        done.set_exception(e)
