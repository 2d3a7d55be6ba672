"""Fixtures of all tests: the default parameters, a prepared data folder, a tiny teacher, an empty MLflow store."""

from pathlib import Path

import pytest
import torch

from dmd.config import Params, load_params
from dmd.diffusion.pipelines import save_pipeline
from dmd.preparation.prepare import prepare
from dmd.storage.checkpoint import Scratch
from dmd.teacher_training.architectures import new_scheduler, new_unet
from dmd.teachers.teacher import Teacher, load_teacher
from tests.helpers.networks import CPU
from tests.helpers.projects import ROOT
from tests.helpers.registry.stores import make_template

torch.set_num_threads(1)  # the networks are too tiny for more threads to help


@pytest.fixture(scope="session")
def params() -> Params:
    """The default params.yaml."""
    return load_params(ROOT / "params.yaml")


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory: pytest.TempPathFactory, params: Params) -> Path:
    """The default data, prepared as a data folder."""
    out = tmp_path_factory.mktemp("data") / "data"
    prepare(params.data, out)
    return out


@pytest.fixture(scope="session")
def teacher_folder(tmp_path_factory: pytest.TempPathFactory, params: Params) -> Path:
    """An untrained class-conditional UNet as a diffusers folder."""
    folder = tmp_path_factory.mktemp("teacher") / "teacher"
    torch.manual_seed(0)
    cfg = params.teacher.model_copy(update={"channels": [8, 8]})
    net = new_unet(cfg, (1, 8, 8), 10)
    with torch.no_grad():
        # diffusers starts the last layer near zero, so the output would hardly depend on the input.
        net.conv_out.weight.normal_(std=0.05)
    save_pipeline(net, new_scheduler(cfg), folder)
    return folder


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database, made once in a session; tests write in copies of it (see tests/helpers/registry)."""
    return make_template(tmp_path_factory)


@pytest.fixture
def teacher(teacher_folder: Path) -> Teacher:
    """The teacher of `teacher_folder`, loaded."""
    return load_teacher(teacher_folder, CPU)


@pytest.fixture
def scratch(tmp_path: Path) -> Scratch:
    """The resumable state of a training, in a folder of its own."""
    return Scratch.at(tmp_path / "scratch", "run", "code")
