"""A teacher in the memory of the CPU: the same numbers on a CPU, and one line for settings that it does not support."""

from pathlib import Path
from typing import Any

import pytest
import torch

from dmd.config import Params, validate
from dmd.distillation.inputs.batches import TrainingImages
from dmd.distillation.methods import METHODS
from dmd.distillation.setup import new_networks
from dmd.distillation.state import TrainState
from dmd.distillation.trainer import train
from dmd.errors import ConfigError
from dmd.teachers.teacher import load_teacher
from tests.helpers.networks import CPU
from tests.helpers.sources import CAPTIONS
from tests.helpers.training import NO_PAIRS, alone, short_training


def rows_of(folder: Path, params: Params, offload: str) -> tuple[list[dict[str, Any]], dict[str, torch.Tensor]]:
    """The rows and the generator's weights after two generator turns, and whether the teacher's layers have hooks."""
    teacher = load_teacher(folder, CPU, 2.0, CAPTIONS)
    cfg = short_training(params, generator_turns=2, batch_size=2, generator_batch_size=2, offload=offload)
    data = TrainingImages(torch.empty(0, *teacher.shape), torch.arange(2))
    method = METHODS["dmd"](params.method.model_copy(update={"critic_turns": 1}), 1000, NO_PAIRS, data)
    nets = new_networks(method, teacher, cfg, "none", CPU)
    hooked = [hasattr(module, "_diffusers_hook") for module in nets.teacher.net.modules()]
    assert any(hooked) == (offload == "teacher")
    for net in (nets.generator, nets.critic):
        assert not any(hasattr(module, "_diffusers_hook") for module in net.modules())
    state = TrainState(nets, cfg)
    rows = list(train(state, method, cfg, teacher.shape, torch.arange(10), alone()))
    return rows, nets.generator.state_dict()


@pytest.mark.parametrize("kind", ["sana", "sd3"])
def test_training_gives_the_same_numbers_on_a_cpu(folders: dict[str, Path], params: Params, kind: str) -> None:
    (rows, weights), (same, also) = (rows_of(folders[kind], params, offload) for offload in ("none", "teacher"))
    assert [row["generator_dm"] for row in rows] == [row["generator_dm"] for row in same]
    assert all(torch.equal(weights[name], value) for name, value in also.items())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lora_rank": 2}, "offload: adapters use the teacher's weights in every pass"),
        ({"shard": "full"}, "offload: FSDP keeps a share of the teacher on each GPU"),
        ({"frozen_precision": "int8"}, "offload: weights of int8 cannot be moved"),
    ],
)
def test_settings_that_it_does_not_support_are_one_line(params: Params, changes: dict[str, Any], words: str) -> None:
    cfg = {**params.train.model_dump(), "offload": "teacher", **changes}
    with pytest.raises(ValueError, match=words):
        type(params.train).model_validate(cfg)


def test_a_discriminator_cannot_read_an_offloaded_teacher(params: Params) -> None:
    raw = params.model_dump(by_alias=True)
    raw["train"]["offload"] = "teacher"
    raw["method"]["gan"]["trunks"] = ["teacher"]
    with pytest.raises(ConfigError, match=r"train.offload: a discriminator cannot read a teacher that is offloaded"):
        validate(raw, "params.yaml")
