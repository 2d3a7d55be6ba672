"""Fixture for the tests of the checks before a run."""

import subprocess
from pathlib import Path

import pytest
from dvc.repo import Repo

from dmd.config import Params
from flows.preflight.run import Run

STAGES = frozenset({"data", "teacher", "encode", "pairs", "train", "evaluate"})


@pytest.fixture
def run(tmp_path: Path, params: Params, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run in an empty project."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    Repo.init(str(tmp_path)).close()
    return Run(tmp_path, [params], STAGES, in_place=True)
