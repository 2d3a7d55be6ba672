"""Fixtures for the tests of the registry: a workspace whose results are published and registered."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from dvc.repo import Repo
from mlflow import MlflowClient
from ruamel.yaml import YAML

from evaluation.sources import mlflow_database
from flows.registry.store import tracking_uri
from flows.registry.tracking import publish
from flows.registry.versions import register
from tests.helpers.projects import ROOT
from tests.helpers.published import NAME, OUTS, REPORTS, make_results, reproduce
from tests.helpers.registry.stores import copy_store
from tests.helpers.toy_graph import commit


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[Path]:
    """A git and DVC repository with one stage, which wrote all results, and an empty store, at an odd path."""
    root = tmp_path_factory.mktemp("wörk space") / "#1 at 50% 'x'"
    root.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        make_results(root / "source")
        yaml = YAML()
        params = yaml.load(ROOT / "params.yaml")
        params["register"] |= {"name": NAME, "experiment": "toy"}
        yaml.dump(params, root / "params.yaml")
        copies = " && ".join(["mkdir -p artifacts", *(f"cp -r source/{Path(out).name} {out}" for out in OUTS)])
        stage = {
            "cmd": f"{copies} && cp -r source/reports .",
            "deps": ["source"],
            "outs": [*OUTS, *({f"reports/{name}": {"cache": False}} for name in REPORTS)],
        }
        yaml.dump({"stages": {"everything": stage}}, root / "dvc.yaml")
        subprocess.run(["git", "init", "-q", "-b", "main"], cwd=root, check=True)
        Repo.init(str(root)).close()
        (root / ".gitignore").write_text("/runs/\n/artifacts/\n")
        reproduce(root)
        commit(root)
        copy_store(empty_store, mlflow_database(root))
        yield root


@pytest.fixture(scope="module")
def client(workspace: Path) -> MlflowClient:
    return MlflowClient(tracking_uri(workspace))


@pytest.fixture(scope="module")
def run_id(workspace: Path, client: MlflowClient) -> str:
    return publish(workspace, flow_run="a-flow-run")


@pytest.fixture(scope="module")
def version(workspace: Path, run_id: str) -> str:
    return register(workspace, run_id)


@pytest.fixture
def as_a_user_would(client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", client.tracking_uri)
