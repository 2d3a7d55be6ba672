"""Fixed random mixing of channels and of scales, as projected GANs have it (Sauer et al. 2021).

A discriminator that reads features directly soon relies on a few of them; mixing spreads each over all channels, and
from the inner levels to the outer ones.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Shape = tuple[int, int, int]  # (C, H, W) of activations

MAX_CHANNELS = 256  # of a mixed level


class RandomMixing(nn.Module):
    """Levels [B, C, H, W], the innermost last -> as many levels of the same sides, mixed by random 1x1 convolutions.

    The weights are buffers: they are saved with the discriminator, and no optimizer holds them.
    """

    def __init__(self, shapes: Sequence[Shape], mixes_scales: bool) -> None:
        super().__init__()
        self.mixes_scales = mixes_scales
        self.shapes = [(min(c, MAX_CHANNELS), h, w) for c, h, w in shapes]  # of the mixed levels
        for i, (c, _, _) in enumerate(shapes):
            self.register_buffer(f"channels{i}", _random_matrix(self.shapes[i][0], c))
        for i in range(len(shapes) - 1):
            if mixes_scales:
                self.register_buffer(f"scales{i}", _random_matrix(self.shapes[i][0], self.shapes[i + 1][0]))

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        mixed = [_mix(x, self.get_buffer(f"channels{i}")) for i, x in enumerate(levels)]
        if self.mixes_scales:
            for i in reversed(range(len(mixed) - 1)):
                inner = _mix(mixed[i + 1], self.get_buffer(f"scales{i}"))
                size = mixed[i].shape[-2:]
                mixed[i] = (mixed[i] + F.interpolate(inner, size=size, mode="bilinear", align_corners=False)) / 2**0.5
        return mixed


def _random_matrix(rows: int, columns: int) -> Tensor:
    """Weights of a 1x1 convolution that keep the variance of independent channels."""
    return torch.randn(rows, columns) / columns**0.5


def _mix(x: Tensor, weight: Tensor) -> Tensor:
    return F.conv2d(x, weight[:, :, None, None].to(x.dtype))
