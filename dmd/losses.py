"""The losses of DMD as pure functions: tensors in, scalar out; no network, no config, no noise drawn inside."""

import torch
import torch.nn.functional as F
from torch import Tensor

from dmd.processes import append_dims


def distribution_matching_loss(x: Tensor, real: Tensor, fake: Tensor, normaliser_min: float) -> Tensor:
    """A scalar whose gradient on x is the normalised score difference (DMD eq. 7 and 8), over x.numel().

    x [B, C, H, W] generated, real and fake the teacher's and the critic's x0 predictions at one x_t.
    The normaliser is one number per sample, mean |x - real| over C, H, W, no smaller than normaliser_min (image units).
    """
    with torch.no_grad():
        scale = (x - real).abs().flatten(1).mean(dim=1).clamp_min(normaliser_min)
        grad = (fake - real) / append_dims(scale, x.ndim)
    return 0.5 * F.mse_loss(x, (x - grad).detach())


def denoising_loss(prediction: Tensor, x0: Tensor, weight: Tensor) -> Tensor:
    """Weighted squared error of x0, mean over all elements (DMD eq. 6); prediction and x0 [B, ...], weight [B]."""
    error = (prediction - x0.detach()) ** 2
    return (append_dims(weight, x0.ndim).to(error.dtype) * error).mean()


def regression_loss(x: Tensor, target: Tensor) -> Tensor:
    """Squared error between the generator's image and the teacher's for the same noise (DMD eq. 9, with L2)."""
    return F.mse_loss(x, target)
