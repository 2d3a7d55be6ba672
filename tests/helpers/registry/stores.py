"""MLflow databases of tests: copies of an empty one, whose creation takes half a minute of a core."""

import os
import shutil
from pathlib import Path

import pytest

from flows.runtime.database import MLFLOW, prepare_database

WORKER = "PYTEST_XDIST_WORKER"  # pytest-xdist sets it in its processes


def make_template(factory: pytest.TempPathFactory) -> Path:
    """Create the empty database of this test session, or return it if another process of the session has made it.

    `prepare_database` holds a lock while it works, so the other processes wait for the first one.
    """
    own = factory.getbasetemp()
    shared = own.parent if WORKER in os.environ else own  # the processes of pytest-xdist have folders side by side
    file = shared / "empty_store" / "mlflow.db"
    file.parent.mkdir(exist_ok=True)
    prepare_database(file, MLFLOW)
    return file


def copy_store(template: Path, file: Path) -> Path:
    """Copy the empty database with the marker of its version, so that the project uses it as it is. Returns `file`."""
    file.parent.mkdir(parents=True, exist_ok=True)
    for suffix in ("", ".version"):
        shutil.copy(f"{template}{suffix}", f"{file}{suffix}")
    return file
