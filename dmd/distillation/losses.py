"""The losses of DMD and DMD2 as pure functions: tensors in, scalar out, without networks, parameters or randomness."""

import torch
import torch.nn.functional as F
from torch import Tensor

from dmd.diffusion.process import append_dims

SMALLEST_SQUARE = 1e-8  # added to the squared length that a projection divides by (PDMD)


def normaliser(x: Tensor, real: Tensor) -> Tensor:
    """Mean |x - real| over C, H, W: one number per sample [B], in image units (DMD, algorithm 2)."""
    return (x - real).abs().flatten(1).mean(dim=1)


@torch.no_grad()
def score_difference(x: Tensor, real: Tensor, fake: Tensor, normaliser_min: float) -> Tensor:
    """The gradient of KL(p_fake || p_real) on x, normalised per sample: (fake - real) / normaliser.

    This is DMD's algorithm 2. Its equations 7 and 8 have one more factor, alpha_t, which the algorithm leaves out.

    x [B, C, H, W] are generated images; real and fake are the x0 predictions of teacher and critic at one x_t. The
    normaliser is clamped to at least normaliser_min (image units).
    """
    return (fake - real) / append_dims(normaliser(x, real).clamp_min(normaliser_min), x.ndim)


@torch.no_grad()
def project_out(grad: Tensor, direction: Tensor) -> Tensor:
    """Gradient without its component along a direction, g - <g, r> / (<r, r> + 1e-8) r for each sample (PDMD, 2026).

    g = grad and r = direction are [B, ...]. The critic's error is estimated by r = fake - x; without its component, the
    score difference no longer follows that error.
    """
    inner = (grad * direction).flatten(1).sum(dim=1)
    square = direction.square().flatten(1).sum(dim=1)
    return grad - append_dims(inner / (square + SMALLEST_SQUARE), grad.ndim) * direction


@torch.no_grad()
def add_augmentation(grad: Tensor, difference: Tensor, scale: Tensor) -> Tensor:
    """The gradient of decoupled DMD, DM - (scale - 1) CA (Liu et al. 2025).

    grad [B, ...] is DM, the score difference without guidance. difference [B, ...] is -CA, with CA = (real_c - real_u)
    / w of the predictions with and without the condition, and w their normaliser. scale [B] is the guidance scale. With
    one x_t and one w for both terms, the result is the score difference of the guided teacher.
    """
    return grad + append_dims(scale - 1, grad.ndim) * difference


def distribution_matching_loss(x: Tensor, grad: Tensor) -> Tensor:
    """0.5 mse(x, stopgrad(x - grad)): a scalar whose gradient on x [B, ...] is grad / x.numel()."""
    return 0.5 * F.mse_loss(x, (x - grad).detach())


def denoising_loss(prediction: Tensor, x0: Tensor, weight: Tensor) -> Tensor:
    """Weighted squared error of x0, mean over all elements (DMD eq. 6); prediction and x0 [B, ...], weight [B]."""
    error = (prediction - x0.detach()) ** 2
    return (append_dims(weight, x0.ndim).to(error.dtype) * error).mean()


def regression_loss(x: Tensor, target: Tensor, kind: str = "l2") -> Tensor:
    """Distance between the generator's and the teacher's images for the same noise (DMD eq. 9, by L2 or Huber)."""
    return F.mse_loss(x, target) if kind == "l2" else F.huber_loss(x, target, delta=0.1)


def generator_gan_loss(fake_logits: Tensor) -> Tensor:
    """Non-saturating GAN loss of the generator: mean softplus(-D(fake)) (DMD2 eq. 4)."""
    return F.softplus(-fake_logits).mean()


def critic_gan_loss(data_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """GAN loss of the discriminator: mean softplus(D(fake)) + mean softplus(-D(data)) (DMD2 eq. 4)."""
    return F.softplus(fake_logits).mean() + F.softplus(-data_logits).mean()


def r1_penalty(logits: Tensor, nudged_logits: Tensor, nudge: float) -> Tensor:
    """R1 by finite differences: E |grad D . n|^2 = |grad D|^2 for unit n, with logits at x_t and at x_t + nudge n.

    Both logits belong to the same noise level: the nudge is added to x_t, after the noise of the process.
    """
    return (((nudged_logits - logits) / nudge) ** 2).mean()
