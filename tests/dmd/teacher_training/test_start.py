"""A teacher's training can start from the weights of another teacher."""

from pathlib import Path
from typing import Any

import pytest
import torch

from dmd.config import Params
from dmd.diffusion.pipelines import save_pipeline
from dmd.errors import TeacherError
from dmd.teacher_training.architectures import new_scheduler, new_unet
from dmd.teacher_training.run import load_start


def trained(params: Params, folder: Path, **changes: Any) -> Path:
    """Write a teacher of random weights on digits, and return the folder of its network."""
    cfg = params.teacher.model_copy(update=changes)
    torch.manual_seed(7)
    save_pipeline(new_unet(cfg, (1, 8, 8), 10), new_scheduler(cfg), folder)
    return folder / "unet"


def test_training_starts_from_the_weights_of_the_folder(params: Params, tmp_path: Path) -> None:
    net = new_unet(params.teacher, (1, 8, 8), 10)
    load_start(net, trained(params, tmp_path))
    torch.manual_seed(7)
    same = new_unet(params.teacher, (1, 8, 8), 10)
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), same.state_dict().values(), strict=True))


def test_a_network_of_another_shape_is_one_line(params: Params, tmp_path: Path) -> None:
    folder = trained(params, tmp_path, channels=[8, 16])
    with pytest.raises(TeacherError, match=r"teacher\.init_from: the network in .* differs from what"):
        load_start(new_unet(params.teacher, (1, 8, 8), 10), folder)
