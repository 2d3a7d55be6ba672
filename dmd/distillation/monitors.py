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
    # Sums over all samples: a mask would make the host wait for the number of samples that it selects.
    in_bin = (t * BINS) // timesteps == torch.arange(BINS, device=t.device)[:, None]  # [BINS, B]
    means = torch.where(in_bin, size, 0.0).sum(dim=1) / in_bin.sum(dim=1)
    return {f"grad_t{i}": mean for i, mean in enumerate(means)}


def constant(value: Tensor, device: torch.device) -> Tensor:
    """A number [] on a device. One from the CPU is filled in there, since the host would wait for a copy."""
    return value if value.device == device else torch.full((), value.item(), dtype=value.dtype, device=device)
