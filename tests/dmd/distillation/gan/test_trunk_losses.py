"""The losses of the turns on frozen trunks are the formulas of docs/methods.md, on what the trunks see."""

from typing import Any

import pytest
import torch
from torch import Tensor

from dmd.config import GanConfig, Params
from dmd.distillation.clipping import clip
from dmd.distillation.gan.adversary import discriminator_loss, generator_loss, penalty_loss
from dmd.distillation.gan.losses import GAN_LOSSES
from dmd.distillation.gan.trunk_discriminator import GradientShares, TrunkDiscriminator
from dmd.teachers.pairs import Pairs
from tests.helpers.gan.matching import matching_method, matching_networks
from tests.helpers.gan.trunks import FROZEN, trunk_method, trunk_networks
from tests.helpers.training import batch, draws

TWO = [FROZEN, "teacher:encoder"]


def discriminator_of(params: Params, **gan: object) -> tuple[TrunkDiscriminator, GanConfig]:
    """A discriminator, and its group of the parameters. gan: changes to it."""
    m = trunk_method(params, "gdd", gan)
    discriminator = trunk_networks(m).discriminator
    assert discriminator is not None
    return discriminator, m.cfg.gan


@pytest.mark.parametrize("loss", GAN_LOSSES)
def test_losses_are_averaged_over_the_levels_of_a_trunk_and_summed_over_trunks(params: Params, loss: str) -> None:
    discriminator, cfg = discriminator_of(params, trunks=TWO, loss=loss)
    (x, y), data = batch(), batch()[0].flip(0) / 3
    rng = draws()
    data_logits, fake_logits = (discriminator(clip(images), y, rng) for images in (data, x))
    wanted: Any = GAN_LOSSES[loss]

    def total(of_network: Any) -> Tensor:
        by_level = {n: [of_network(*p) for p in zip(data_logits[n], fake_logits[n], strict=True)] for n in TWO}
        return sum((torch.stack(values).mean() for values in by_level.values()), torch.zeros(()))

    got = discriminator_loss(discriminator, data, x, y, draws(), cfg)["total"]
    assert {n: len(levels) for n, levels in data_logits.items()} == {FROZEN: 2, "teacher:encoder": 3}
    torch.testing.assert_close(got, total(wanted.discriminator))
    rng = draws()  # the generator's images come first in its turn
    fake_logits = discriminator(clip(x), y, rng)
    data_logits = discriminator(clip(data), y, rng)
    got = generator_loss(discriminator, x, data, y, draws(), cfg)["total"]
    torch.testing.assert_close(got, total(wanted.generator))


def test_gdd_adds_the_anchor_to_the_weighted_gan_loss(params: Params) -> None:
    pairs = Pairs(*torch.rand(2, 12, 1, 8, 8), torch.arange(12) % 10)
    gan = {**params.method.gan.model_dump(), "trunks": [FROZEN], "weight": 2.0}
    m: Any = matching_method(params, "gdd", pairs=pairs, gan=gan, regression_weight=0.5)
    losses = m.loss("generator", matching_networks(m), *batch(), draws())
    assert losses["regression"] > 0
    torch.testing.assert_close(losses["total"], 2 * losses["gan"] + 0.5 * losses["regression"])
    without: Any = matching_method(params, "gdd", pairs=pairs, gan=gan)
    assert "regression" not in without.loss("generator", matching_networks(without), *batch(), draws())


def test_trunks_see_images_in_the_range_of_data(params: Params) -> None:
    """An image beyond black or white looks like its clipped one, to both networks."""
    discriminator, cfg = discriminator_of(params)
    x, y = batch()
    assert x.abs().max() > 1
    for loss in (discriminator_loss, generator_loss):
        losses = [loss(discriminator, images, images, y, draws(), cfg)["total"] for images in (x, clip(x))]
        assert torch.equal(*losses)


def test_augmentation_changes_what_both_networks_see_but_no_penalty(params: Params) -> None:
    """R3GAN penalises the gradient at the images themselves."""
    discriminator, cfg = discriminator_of(params, trunk_r1_weight=1.0, trunk_r2_weight=1.0)
    (x, y), data = batch(), batch()[0].flip(0)
    changed = {}
    for loss in (discriminator_loss, generator_loss, penalty_loss):
        values = []
        for discriminator.augments in (False, True):
            values.append(loss(discriminator, data, x, y, draws(), cfg)["total"])
        changed[loss.__name__] = not torch.equal(*values)
    assert changed == {"discriminator_loss": True, "generator_loss": True, "penalty_loss": False}


def test_images_of_data_and_generator_are_augmented_independently(params: Params) -> None:
    """Otherwise equal images would give no information on the changes, and unequal ones could be told by them."""
    discriminator, _ = discriminator_of(params, augment=True)
    x, rng = batch()[0], draws()
    assert not torch.allclose(discriminator.prepare(x, rng), discriminator.prepare(x, rng))


@pytest.mark.parametrize("trunk", ["teacher", "teacher:encoder"])
def test_both_penalties_agree_on_a_trunk_with_noise_and_attention(params: Params, trunk: str) -> None:
    """The nudged image has the noise of the image itself: with another noise the estimate would be far larger."""
    values = {}
    for kind in ("exact", "finite_difference"):
        gan = {"trunks": [trunk], "trunk_r1_weight": 1.0, "penalty": kind, "penalty_every": 1}
        discriminator, cfg = discriminator_of(params, **gan)
        x, y = batch(64)
        total = penalty_loss(discriminator, x, x, y, draws(n=64), cfg)["total"]
        total.backward()
        assert any(p.grad is not None and p.grad.abs().max() > 0 for p in discriminator.parameters())
        values[kind] = total.item()
    assert values["finite_difference"] == pytest.approx(values["exact"], rel=0.5) and values["exact"] > 0


def test_the_penalty_is_weighted_by_the_steps_between_its_turns(params: Params) -> None:
    """Exact and finite-difference penalties agree on a trunk, and R2 is R1 of the generated images."""
    losses = {}
    for kind in ("exact", "finite_difference"):
        m = trunk_method(params, "gdd", {"trunk_r1_weight": 0.1, "penalty_every": 2, "penalty": kind})
        nets = trunk_networks(m)
        assert nets.discriminator is not None
        x, y = batch(512)
        losses[kind] = penalty_loss(nets.discriminator, x, x.flip(0), y, draws(n=512), m.cfg.gan)
        assert losses[kind]["total"].item() == pytest.approx(2 * 0.1 * losses[kind]["r1"].item())
    assert losses["finite_difference"]["r1"].item() == pytest.approx(losses["exact"]["r1"].item(), rel=0.2)
    m = trunk_method(params, "gdd", {"trunk_r2_weight": 0.1})
    nets = trunk_networks(m)
    assert nets.discriminator is not None
    r2 = penalty_loss(nets.discriminator, x.flip(0), x, y, draws(n=512), m.cfg.gan)["r2"]
    assert r2.item() == pytest.approx(losses["exact"]["r1"].item(), rel=1e-5)


def test_a_weight_scales_the_gradient_of_its_trunk_in_the_generators_turn_alone(params: Params) -> None:
    """Two trunks at weights 2 and 3 give the gradient 2 a + 3 b, where a and b are those of each trunk alone."""
    both = trunk_networks(trunk_method(params, "gdd", {"trunks": [FROZEN, "teacher"]}))
    assert both.discriminator is not None

    def gradient(weights: list[float]) -> Tensor:
        cfg = params.method.gan.model_copy(update={"trunks": [FROZEN, "teacher"], "trunk_weights": weights})
        x, y = batch()
        x = (0.1 * x).requires_grad_()  # in [-1, 1]: beyond it, clipping depends on the gradient's sign
        with both.only_training("generator"):
            generator_loss(both.discriminator, x, None, y, draws(), cfg)["total"].backward()  # type: ignore[arg-type]
        assert x.grad is not None
        return x.grad

    a, b = gradient([1.0, 1e-12]), gradient([1e-12, 1.0])
    torch.testing.assert_close(gradient([2.0, 3.0]), 2 * a + 3 * b)
    torch.testing.assert_close(gradient([]), a + b)

    x, y = batch()
    losses = [
        discriminator_loss(
            both.discriminator, x, -x, y, draws(), params.method.gan.model_copy(update={"trunk_weights": w})
        )
        for w in ([], [2.0, 3.0])
    ]
    assert torch.equal(losses[0]["total"], losses[1]["total"])


def test_each_trunk_has_a_share_of_the_gradient() -> None:
    x = torch.randn(4, 3, requires_grad=True)
    shares = GradientShares(x, ["a", "b"])
    (3 * shares.branches["a"].sum() + shares.branches["b"].sum()).backward()
    assert shares.shares["a"].item() == pytest.approx(0.75) and shares.shares["b"].item() == pytest.approx(0.25)
    assert torch.equal(x.grad, torch.full((4, 3), 4.0))  # type: ignore[arg-type]
