"""Generators of text transformers train, with all weights and with adapters, in one step and in four."""

from pathlib import Path
from typing import Any

import pytest
import torch

from dmd.codecs.latents import Latents
from dmd.config import LevelsConfig, Params
from dmd.distillation.inputs.batches import TrainingImages
from dmd.distillation.methods import METHODS
from dmd.distillation.state import TrainState
from dmd.distillation.trainer import train
from dmd.errors import ConfigError
from dmd.teachers.pairs import collect_pairs, make_pairs
from dmd.teachers.teacher import Teacher, load_teacher
from tests.helpers.networks import CPU
from tests.helpers.sources import CAPTIONS
from tests.helpers.teachers.text_transformers import TRANSFORMERS
from tests.helpers.training import alone, short_training

LABELS = torch.arange(10)


def trained(teacher: Teacher, params: Params, name: str, rank: int, steps: int, between: str) -> tuple[Any, Any]:
    """(training state, starting weights of the generator) after a warm start and two turns of distribution matching."""
    cfg = short_training(params, warm=(1, 1), generator_turns=2, batch_size=4, generator_batch_size=4, warmup_turns=0)
    few = params.pairs.model_copy(update={"count": 4, "steps": 2})
    pairs = collect_pairs(make_pairs(teacher, LABELS, few, CPU))
    assert isinstance(teacher.codec, Latents)
    side = teacher.codec.image_shape(teacher.shape)[1]
    data = TrainingImages(teacher.codec.encode(torch.rand(4, 1, side, side) * 2 - 1), LABELS[:4])
    levels = LevelsConfig.model_validate({**params.method.levels.model_dump(), "between": between})
    changes = {"name": name, "critic_turns": 1, "steps": steps, "levels": levels}
    method = METHODS[name](params.method.model_copy(update=changes), 1000, pairs, data)
    state = TrainState(method.networks(teacher, 0, (rank, rank)), cfg)
    start = {k: v.clone() for k, v in state.nets.generator.state_dict().items()}
    rows = list(train(state, method, cfg, teacher.shape, LABELS, alone()))
    assert rows and all(torch.isfinite(torch.tensor(row["generator_total"])) for row in rows[1:])
    return state, start


@pytest.mark.parametrize(
    ("name", "rank", "steps", "between"),
    [("dmd", 0, 1, "fresh"), ("dmd", 2, 4, "ode"), ("dmd2", 2, 4, "fresh"), ("dmd2", 0, 1, "fresh")],
)
@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_training_moves_the_weights_that_it_may(
    folders: dict[str, Path], params: Params, kind: str, name: str, rank: int, steps: int, between: str
) -> None:
    """DMD2's discriminator reads the image's tokens in the critic's blocks."""
    teacher = load_teacher(folders[kind], CPU, 2.0, CAPTIONS)
    if name == "dmd2" and kind in ("lumina2", "z_image"):
        with pytest.raises(ConfigError, match=r"method.gan.trunks: critic and teacher cannot read a \w+, whose blocks"):
            trained(teacher, params, name, rank, steps, between)
        return
    before = {k: v.clone() for k, v in teacher.denoiser.state_dict().items()}
    state, start = trained(teacher, params, name, rank, steps, between)
    moved = {k for k, v in state.nets.generator.state_dict().items() if not torch.equal(v, start[k])}
    assert moved and all("lora_" in k for k in moved) == (rank > 0)
    assert all(torch.equal(v, before[k]) for k, v in teacher.denoiser.state_dict().items())
