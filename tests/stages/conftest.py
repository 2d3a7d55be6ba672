"""Fixtures for the tests of the stages."""

import shutil
from pathlib import Path

import pytest

from tests.helpers.projects import ROOT


@pytest.fixture
def project(tmp_path: Path, data_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with params.yaml and prepared data; it is the working directory of the test."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    shutil.copytree(data_folder, tmp_path / "artifacts/data")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DMD_SCRATCH", str(tmp_path / "scratch"))
    return tmp_path
