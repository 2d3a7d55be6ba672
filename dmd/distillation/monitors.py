"""What tells a good run from a bad one, since the losses do not: numbers logged at every generator turn."""

import torch
from torch import Tensor

BINS = 4  # of t


@torch.no_grad()
def image_statistics(x: Tensor) -> dict[str, Tensor]:
    """Mean and spread of images [B, C, H, W]: brightness that drifts or swings is the earliest sign of collapse."""
    return {"x_mean": x.mean(), "x_std": x.std()}


@torch.no_grad()
def by_time(grad: Tensor, t: Tensor, timesteps: int) -> dict[str, Tensor]:
    """Mean |grad| of the samples in each quarter of [0, T), low noise first; nan where a quarter has none.

    Of a batch in parts the mean is that of the parts that have any.
    """
    size = grad.abs().flatten(1).mean(dim=1).double()
    return {f"grad_t{i}": size[(t * BINS) // timesteps == i].mean() for i in range(BINS)}
