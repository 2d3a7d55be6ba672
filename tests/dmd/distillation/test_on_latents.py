"""Distillation of a teacher on latents changes neither its VAE nor its text encoder."""

from pathlib import Path

import pytest
import torch

from dmd.config import Params
from dmd.distillation.inputs.batches import TrainingImages
from dmd.distillation.methods import METHODS
from dmd.distillation.state import TrainState
from dmd.distillation.trainer import train
from dmd.teachers.pairs import collect_pairs, make_pairs
from dmd.teachers.teacher import Teacher
from tests.helpers.networks import CPU
from tests.helpers.sources import reals
from tests.helpers.teachers.latent_teachers import latent_teacher
from tests.helpers.training import alone


@pytest.fixture(params=["dit", "text_unet"])
def teacher(request: pytest.FixtureRequest, params: Params, tmp_path: Path) -> Teacher:
    return latent_teacher(params, request.param, tmp_path / "teacher")


@pytest.mark.parametrize("name", ["dmd", "dmd2"])
def test_a_turn_of_each_network_leaves_vae_and_text_encoder_unchanged(
    teacher: Teacher, params: Params, name: str
) -> None:
    pairs = collect_pairs(
        make_pairs(teacher, torch.arange(10), params.pairs.model_copy(update={"count": 6, "steps": 2}), CPU)
    )
    assert pairs.x.shape == (6, 4, 4, 4)
    small = {"batch_size": 4, "generator_batch_size": 4, "generator_turns": 1, "warmup_turns": 0}
    warm = params.train.warm_start.model_copy(update={"turns": 1, "critic_turns": 1, "batch_size": 4})
    cfg = params.train.model_copy(update={**small, "warm_start": warm})
    data = TrainingImages(teacher.codec.encode(reals().x), reals().labels)
    m = METHODS[name](params.method.model_copy(update={"name": name}), 1000, pairs, data)
    nets = m.networks(teacher, 0)
    state = TrainState(nets, cfg)
    before = {k: v.clone() for k, v in nets.generator.state_dict().items()}
    rows = list(train(state, m, cfg, teacher.shape, torch.arange(10), alone()))
    assert [row["phase"] for row in rows] == ["warm_start", "adversarial" if name == "dmd2" else "distill"]
    moved = [k for k, v in nets.generator.state_dict().items() if not torch.equal(v, before[k])]
    assert moved and not any("vae" in k or "text_encoder" in k or "embeddings" in k for k in moved)
    assert not any("vae" in k or "text_encoder" in k for k in before)
