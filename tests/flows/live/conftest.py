"""A small repository with a store of its own, for runs that are followed."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from evaluation.sources import mlflow_database
from flows.live import reporter as module
from flows.live.spool import FOLDER
from flows.registry.store import connect, experiment_id
from tests.helpers.params import set_params
from tests.helpers.projects import ROOT
from tests.helpers.registry.stores import copy_store
from tests.helpers.toy_graph import commit, new_toy


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Path:
    """A repository whose store has its tables and an experiment."""
    root = new_toy(tmp_path_factory.mktemp("live"))
    (root / ".gitignore").write_text("/runs/\n")
    (root / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    commit(root)
    copy_store(empty_store, mlflow_database(root))
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        with connect(root) as client:
            experiment_id(client, "onestep")
    return root


@pytest.fixture
def root(store: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The repository, with parameters that no other test has."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(module, "INTERVAL", 0.05)
    set_params(store / "params.yaml", {"train.seed": time.time_ns() % 10**6})
    yield store
    shutil.rmtree(store / FOLDER, ignore_errors=True)
