"""The networks of a distillation: the parts of a generator that learn."""

import pytest
from torch import nn

from dmd.config import Params, TrainConfig
from dmd.distillation.networks import freeze_spatial
from dmd.distillation.setup import new_networks
from dmd.networks.wrapper import unwrap
from dmd.teachers.teacher import Teacher
from tests.helpers.networks import CPU, toy_denoiser, unet_denoiser
from tests.helpers.training import method


def test_spatial_convolutions_and_attention_projections_of_the_blocks_are_frozen() -> None:
    denoiser = unet_denoiser()
    freeze_spatial(denoiser)
    net = unwrap(denoiser.net)
    frozen = {n for n, p in net.named_parameters() if not p.requires_grad}
    modules = {n.rpartition(".")[0] for n in frozen}
    inside = {n for n, m in net.named_modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)}
    projections = {n for n, _ in net.named_modules() if n.endswith("to_out.0")}
    assert projections and modules == (inside - {"conv_in", "conv_out"}) | projections
    assert {"conv_in.weight", "conv_out.weight"}.isdisjoint(frozen)
    assert not any("norm" in n or "to_q" in n or "time_emb" in n or "conv_shortcut" in n for n in frozen)


def test_a_network_without_such_layers_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"train.generator_parts: no_spatial needs a UNet"):
        freeze_spatial(toy_denoiser())


@pytest.mark.parametrize(("parts", "all_learn"), [("all", True), ("no_spatial", False)])
def test_the_parameter_freezes_the_generator_alone(params: Params, parts: str, all_learn: bool) -> None:
    denoiser = unet_denoiser().requires_grad_(False)
    cfg: TrainConfig = params.train.model_copy(update={"generator_parts": parts})
    nets = new_networks(method(params), Teacher(denoiser, denoiser, None, (1, 8, 8), 11), cfg, "none", CPU)
    assert all(p.requires_grad for p in nets.generator.parameters()) is all_learn
    assert all(p.requires_grad for p in nets.critic.parameters())
