"""The stores of tests are copies of one database, which the project uses as it is."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from mlflow import MlflowClient

from flows.runtime import database
from flows.runtime.database import MLFLOW, prepare_database
from tests.helpers.registry.stores import WORKER, copy_store, make_template


def test_a_copy_needs_no_migration_and_the_original_stays_empty(
    empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = copy_store(empty_store, tmp_path / "runs" / "mlflow.db")
    monkeypatch.setattr(database, "_migrate", lambda *_: pytest.fail("the marker says that nothing is to be done"))
    prepare_database(file, MLFLOW)
    MlflowClient(f"sqlite:///{file}").create_registered_model("mine")
    for store, models in ((file, 1), (empty_store, 0)):
        with closing(sqlite3.connect(store)) as connection:
            assert connection.execute("SELECT count(*) FROM registered_models").fetchone() == (models,)


class Factory:
    """The part of pytest's factory that names the folder of a process."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder

    def getbasetemp(self) -> Path:
        return self.folder


def test_the_processes_of_a_session_share_a_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Path] = []
    monkeypatch.setattr("tests.helpers.registry.stores.prepare_database", lambda file, tool: made.append(file))
    monkeypatch.setenv(WORKER, "gw0")
    workers = [make_template(Factory(tmp_path / name)) for name in ("popen-gw0", "popen-gw1")]  # type: ignore[arg-type]
    monkeypatch.delenv(WORKER)
    alone = make_template(Factory(tmp_path / "alone"))  # type: ignore[arg-type]
    assert workers == [tmp_path / "empty_store" / "mlflow.db"] * 2
    assert alone == tmp_path / "alone" / "empty_store" / "mlflow.db" and made == [*workers, alone]
