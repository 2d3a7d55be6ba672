"""GAN losses and penalties as pure functions of logits; a large logit stands for data.

Logits have any shape, such as [B, P] of P patches. The relativistic loss compares data and generated images pairwise,
so sample i of both must have the same label.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dmd.distillation.losses import critic_gan_loss, generator_gan_loss


class GanLoss(NamedTuple):
    """The losses of both networks; each takes the logits of data and of generated images."""

    discriminator: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor, Tensor], Tensor]


def _logistic_generator(data: Tensor, fake: Tensor) -> Tensor:
    """Non-saturating loss (Goodfellow et al. 2014): mean softplus(-D(fake))."""
    return generator_gan_loss(fake)


def _hinge_discriminator(data: Tensor, fake: Tensor) -> Tensor:
    """Lim and Ye 2017: mean max(0, 1 - D(data)) + mean max(0, 1 + D(fake))."""
    return F.relu(1 - data).mean() + F.relu(1 + fake).mean()


def _hinge_generator(data: Tensor, fake: Tensor) -> Tensor:
    """-mean D(fake)."""
    return -fake.mean()


def _relativistic_discriminator(data: Tensor, fake: Tensor) -> Tensor:
    """Jolicoeur-Martineau 2018; R3GAN (Huang et al. 2025): mean softplus(-(D(data) - D(fake)))."""
    return F.softplus(fake - data).mean()


def _relativistic_generator(data: Tensor, fake: Tensor) -> Tensor:
    """Mean softplus(-(D(fake) - D(data)))."""
    return F.softplus(data - fake).mean()


GAN_LOSSES: dict[str, GanLoss] = {
    "logistic": GanLoss(critic_gan_loss, _logistic_generator),
    "hinge": GanLoss(_hinge_discriminator, _hinge_generator),
    "relativistic": GanLoss(_relativistic_discriminator, _relativistic_generator),
}


def gradient_penalty(scores: Tensor, x: Tensor) -> Tensor:
    """Mean |grad_x score|^2 over the batch (Mescheder et al. 2018), by a second backward pass.

    scores [B]: one number per sample, from x [B, ...], which requires a gradient. It is R1 on data and R2 on generated
    images; the papers' gamma / 2 is its weight. It does not depend on the number of patches whose mean a score is.
    """
    (grad,) = torch.autograd.grad(scores.sum(), x, create_graph=True)
    return grad.square().flatten(1).sum(dim=1).mean()


def finite_difference_penalty(scores: Tensor, nudged: Tensor, nudge: float) -> Tensor:
    """Finite-difference estimate of it: E |score(x + nudge n) - score(x)|^2 / nudge^2, n unit noise, scores [B]."""
    return ((nudged - scores) / nudge).square().mean()


def accuracy(data: Tensor, fake: Tensor) -> Tensor:
    """The share of logits with the right sign, in equal parts of data and generated images; 0.5 is chance."""
    return ((data > 0).double().mean() + (fake < 0).double().mean()) / 2


def logit_gap(data: Tensor, fake: Tensor) -> Tensor:
    """Mean D(data) - mean D(fake); 0 means that the discriminator sees no difference."""
    return data.mean() - fake.mean()
