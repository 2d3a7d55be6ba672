"""Fixtures for the tests of the stages."""

import shutil
from pathlib import Path

import pytest

from tests.helpers.params import set_params
from tests.helpers.projects import ROOT
from tests.helpers.stages import PATHS, arguments, stage

REDUCED = {"pairs.count": 8, "pairs.steps": 2, "evaluator.steps": 2, "evaluator.classifier_steps": 2}


@pytest.fixture
def project(tmp_path: Path, data_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with params.yaml and prepared data; it is the working directory of the test."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    shutil.copytree(data_folder, tmp_path / "artifacts/data")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DMD_SCRATCH", str(tmp_path / "scratch"))
    return tmp_path


@pytest.fixture
def inputs(project: Path, teacher_folder: Path) -> Path:
    """A project with all inputs of stage `train`: a tiny teacher, eight pairs and an evaluator."""
    (project / PATHS["teacher"]).symlink_to(teacher_folder)
    set_params(project / "params.yaml", REDUCED)
    for name, needs, out in (
        ("encode", ("data", "teacher"), "encoded"),
        ("pairs", ("data", "teacher", "encoded"), "pairs"),
        ("evaluator", ("data",), "evaluator"),
        ("trunk", ("data",), "trunk"),
    ):
        code, err = stage(name, *arguments(*needs), "--out", PATHS[out])
        assert code == 0, err
    return project
