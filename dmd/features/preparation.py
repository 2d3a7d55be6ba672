"""Preparation of images for a frozen network: RGB, size and normalisation, with a gradient towards the image."""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preparation:
    """The input that a network was trained with: its side in pixels, and mean and deviation of RGB in 0..1."""

    side: int
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    multiple: int = 1  # the network takes sides that are multiples of this number of pixels

    def at(self, side: int) -> "Preparation":
        """Change the side of the input. Raises ValueError if the network does not take that side."""
        if side % self.multiple:
            raise ValueError(f"a side of {side} pixels is not a multiple of {self.multiple}")
        return replace(self, side=side)

    def __call__(self, x: Tensor) -> Tensor:
        """x [B, 1 or 3, H, W] in [-1, 1] -> normalised float [B, 3, side, side], resized by bilinear interpolation.

        Grey images become RGB. Smaller sides are reached with antialiasing.
        """
        size = (self.side, self.side)
        if x.shape[-2:] != size:
            is_smaller = self.side < min(x.shape[-2:])
            x = F.interpolate(x, size=size, mode="bilinear", align_corners=False, antialias=is_smaller)
        rgb = (x.expand(-1, 3, -1, -1) + 1) / 2
        # A tensor of the means would be uploaded in each call, for which the host waits; numbers are not.
        channels = zip(rgb.unbind(dim=1), self.mean, self.std, strict=True)
        return torch.stack([(channel - mean) / std for channel, mean, std in channels], dim=1)
