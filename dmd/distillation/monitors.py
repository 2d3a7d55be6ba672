"""Statistics of every generator turn that tell a good run from a bad one, which the losses do not."""

import torch
from torch import Tensor

BINS = 4  # equal ranges of t


@torch.no_grad()
def image_statistics(x: Tensor) -> dict[str, Tensor]:
    """Mean and standard deviation of images [B, C, H, W]. Drifting brightness is an early sign of collapse."""
    return {"x_mean": x.mean(), "x_std": x.std()}


@torch.no_grad()
def gradient_by_time(grad: Tensor, t: Tensor, timesteps: int) -> dict[str, Tensor]:
    """Mean |grad| of the samples in each quarter of [0, T), low noise first; nan for a quarter without samples.

    For a batch in parts, the logged number is the mean over the parts that have samples in the quarter.
    """
    size = grad.abs().flatten(1).mean(dim=1).double()
    return {f"grad_t{i}": size[(t * BINS) // timesteps == i].mean() for i in range(BINS)}
