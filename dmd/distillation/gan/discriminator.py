"""The discriminator: convolutional heads that tell data from generated images by the critic's activations.

DMD2 has one head, on the innermost activations (section 4.3). A head may also read the noised image itself, as DCGAN's
discriminator does, or its residual features, which show differences fainter than a few grey levels.
"""

from collections.abc import Sequence
from math import gcd

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dmd.diffusion.process import append_dims

MAX_SIDE = 4  # pixels: strided convolutions halve the activations until no side is larger
MIN_CHANNELS = 16  # if the last level has fewer channels, every head is IMAGE_CHANNELS wide
IMAGE_CHANNELS = 64  # width of a head on the image itself, which has few channels
MIN_GROUP = 16  # channels per group of the norm

Shape = tuple[int, int, int]  # (C, H, W) of activations


class Discriminator(nn.Module):
    """Activations [B, C, H, W] of each level, or images -> logits [B, levels]; large means data."""

    def __init__(self, features: Sequence[Shape]) -> None:
        """features: the shape of each level; all heads are as wide as the last level, the innermost."""
        super().__init__()
        channels = features[-1][0]
        width = channels if channels >= MIN_CHANNELS else IMAGE_CHANNELS
        self.heads = nn.ModuleList(_head(shape, width) for shape in features)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Logits [B, levels] of activations, one tensor for each level."""
        return torch.cat([head(x).flatten(1) for head, x in zip(self.heads, features, strict=True)], dim=1)


def _head(shape: Shape, width: int) -> nn.Sequential:
    channels, height, width_of_image = shape
    layers: list[nn.Module] = []
    while max(height, width_of_image) > MAX_SIDE:
        layers += [nn.Conv2d(channels, width, 4, stride=2, padding=1), _norm(width), nn.SiLU()]
        channels, height, width_of_image = width, height // 2, width_of_image // 2
    layers += [
        nn.Conv2d(channels, width, (height, width_of_image)),
        _norm(width),
        nn.SiLU(),
        nn.Conv2d(width, 1, 1),
    ]
    return nn.Sequential(*layers)


def _norm(channels: int) -> nn.GroupNorm:
    """Group norm with 32 groups as in DMD2, or fewer, so that each group has MIN_GROUP channels or more.

    The last layer has one pixel; there, a group of one channel would always be normalised to zero.
    """
    return nn.GroupNorm(gcd(channels, min(32, max(1, channels // MIN_GROUP))), channels)


def residual_features(x_t: Tensor, sigma: Tensor) -> Tensor:
    """The image, its contrast and its distance to black and white: [B, 3C, H, W], for x_t [B, C, H, W] and sigma [B].

    The contrast is the difference to the mean of the 3x3 neighbourhood; black is -1 and white is 1. Contrast and
    distance are in units of the noise and compressed by asinh, so that almost black differs clearly from black.
    """
    noise = append_dims(sigma, x_t.ndim).to(x_t)
    neighbourhood = F.avg_pool2d(F.pad(x_t, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    contrast = torch.asinh((x_t - neighbourhood) / noise)
    ends = torch.asinh((x_t + 1) / noise) - torch.asinh((1 - x_t) / noise)
    return torch.cat([x_t, contrast, ends], dim=1)


def new_discriminator(features: Sequence[Shape], seed: int) -> Discriminator:
    """A discriminator whose weights depend on the seed alone; the global random state is left unchanged."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Discriminator(features)
