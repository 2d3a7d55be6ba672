"""Losses of the turns of a discriminator on frozen trunks, and of its generator, with their numbers for the log."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from dmd.config import GanConfig
from dmd.diffusion.denoiser import Cond
from dmd.distillation.gan.heads import scores
from dmd.distillation.gan.losses import (
    GAN_LOSSES,
    accuracy,
    finite_difference_penalty,
    gradient_penalty,
    logit_gap,
)
from dmd.distillation.gan.trunk_discriminator import GradientShares, Logits, TrunkDiscriminator, label
from dmd.training.random_source import RandomSource

NUDGE = 0.01  # step of the finite difference, in units of the image (Self-Forcing)

Losses = dict[str, Tensor]


def discriminator_loss(
    discriminator: TrunkDiscriminator, data: Tensor, fake: Tensor, cond: Cond, rng: RandomSource, cfg: GanConfig
) -> Losses:
    """The loss of the discriminator's turn on data and generated images [B, C, H, W], which share their conditions.

    It is the sum over trunks of the mean over their levels.
    """
    data_logits = discriminator(discriminator.prepare(data, rng), cond, rng)
    fake_logits = discriminator(discriminator.prepare(fake, rng), cond, rng)
    loss = _sum_over_trunks(GAN_LOSSES[cfg.loss].discriminator, data_logits, fake_logits)
    numbers = {}
    for name in data_logits:
        pair = torch.cat(data_logits[name], dim=1), torch.cat(fake_logits[name], dim=1)
        numbers |= {f"accuracy_{label(name)}": accuracy(*pair), f"gap_{label(name)}": logit_gap(*pair).detach()}
    return {"total": loss, "gan": loss.detach()} | numbers


def generator_loss(
    discriminator: TrunkDiscriminator, x: Tensor, data: Tensor | None, cond: Cond, rng: RandomSource, cfg: GanConfig
) -> Losses:
    """The generator's loss on its images x [B, C, H, W]; data, with the same conditions, for a relativistic loss.

    It is the sum over trunks of their weight times the mean over their levels.
    """
    seen = GradientShares(discriminator.prepare(x, rng), list(discriminator.trunks))
    fake_logits = discriminator(seen.branches, cond, rng)
    data_logits = fake_logits
    if data is not None:
        with torch.no_grad():
            data_logits = discriminator(discriminator.prepare(data, rng), cond, rng)
    loss = _sum_over_trunks(GAN_LOSSES[cfg.loss].generator, data_logits, fake_logits, cfg.trunk_weights)
    shares = {f"share_{label(name)}": share for name, share in seen.shares.items()}
    return {"total": loss, "gan": loss.detach()} | shares


def penalty_loss(
    discriminator: TrunkDiscriminator, data: Tensor, fake: Tensor, cond: Cond, rng: RandomSource, cfg: GanConfig
) -> Losses:
    """R1 on data and R2 on generated images, in a turn of its own; the weights grow with the turns in between.

    Both measure the gradient of each trunk's score on the images, before augmentation (R3GAN).
    """
    penalty = data.new_zeros(())
    numbers = {}
    for name, weight, x in (("r1", cfg.trunk_r1_weight, data), ("r2", cfg.trunk_r2_weight, fake)):
        if weight > 0:
            value = _penalty(discriminator, x, cond, rng, cfg.penalty == "exact")
            penalty = penalty + weight * value
            numbers[name] = value.detach()
    return {"total": cfg.penalty_every * penalty} | numbers


def _penalty(discriminator: TrunkDiscriminator, x: Tensor, cond: Cond, rng: RandomSource, exact: bool) -> Tensor:
    """Sum over trunks of the mean squared gradient of their scores."""
    x = x.detach().requires_grad_(exact)

    def score(at: Tensor) -> dict[str, Tensor]:
        # Fused attention, as in a teacher or a transformer, has no second derivative.
        with sdpa_kernel(SDPBackend.MATH) if exact else nullcontext():
            logits = discriminator(at, cond, rng.fork("noise of trunks"))  # the same for an image and its neighbour
        return {name: scores(levels) for name, levels in logits.items()}

    here = score(x)
    if exact:
        return torch.stack([gradient_penalty(value, x) for value in here.values()]).sum()
    nudged = score(x + NUDGE * rng.noise_like(x))
    return torch.stack([finite_difference_penalty(here[name], nudged[name], NUDGE) for name in here]).sum()


def _sum_over_trunks(
    loss: Callable[[Tensor, Tensor], Tensor], data: Logits, fake: Logits, weights: Sequence[float] = ()
) -> Tensor:
    """Sum over trunks of weight times the mean loss of their levels; without weights, each is 1."""
    per_trunk = [torch.stack([loss(d, f) for d, f in zip(data[name], fake[name], strict=True)]).mean() for name in data]
    if weights:
        per_trunk = [weight * value for weight, value in zip(weights, per_trunk, strict=True)]
    return torch.stack(per_trunk).sum()
