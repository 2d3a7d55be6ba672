"""DiffAugment (Zhao et al. 2020): random changes of all images that a discriminator sees, with a gradient.

Data and generated images are changed alike, so a generator cannot learn the changes, while the discriminator cannot
remember the data.
"""

import torch
from torch import Tensor

from dmd.diffusion.process import append_dims
from dmd.training.random_source import RandomSource

SHIFT = 1 / 8  # largest translation, as a share of the side
CUTOUT = 1 / 2  # side of the square that is removed, as a share of the image's


def augment(x: Tensor, rng: RandomSource) -> Tensor:
    """Colour, translation and cutout of images x [B, C, H, W] in [-1, 1]; each sample has numbers of its own."""
    x = change_colour(x, *(rng.uniform().to(x) for _ in range(3)))
    x = translate(x, *(rng.uniform().to(x) for _ in range(2)))
    return cut_out(x, *(rng.uniform().to(x) for _ in range(2)))


def change_colour(x: Tensor, brightness: Tensor, saturation: Tensor, contrast: Tensor) -> Tensor:
    """Brightness by -0.5 to 0.5, saturation by 0 to 2 and contrast by 0.5 to 1.5, for numbers [B] in [0, 1)."""
    brightness, saturation, contrast = (append_dims(v, x.ndim) for v in (brightness, saturation, contrast))
    x = x + brightness - 0.5
    grey = x.mean(dim=1, keepdim=True)
    x = grey + (x - grey) * (2 * saturation)
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    return mean + (x - mean) * (0.5 + contrast)


def translate(x: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Move each image by up to an eighth of its side, for numbers [B] in [0, 1); the border becomes 0, mid-grey."""
    b, _, h, w = x.shape
    rows, row_inside = _sources(down, h)
    columns, column_inside = _sources(right, w)
    sample = torch.arange(b, device=x.device)[:, None, None]
    moved = x.permute(0, 2, 3, 1)[sample, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    return moved * (row_inside[:, :, None] & column_inside[:, None, :])[:, None]


def _sources(share: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """For each pixel [B, side], the pixel that moves there, and whether it lies inside the image."""
    largest = int(side * SHIFT)
    shift = (share * (2 * largest + 1)).long() - largest
    source = torch.arange(side, device=share.device) - shift[:, None]
    return source.clamp(0, side - 1), (source >= 0) & (source < side)


def cut_out(x: Tensor, vertical: Tensor, horizontal: Tensor) -> Tensor:
    """Set a square of half the side to 0, mid-grey, with its centre at numbers [B] in [0, 1) of height and width."""
    _, _, h, w = x.shape
    inside_rows, inside_columns = _covered(vertical, h), _covered(horizontal, w)
    return x * ~(inside_rows[:, :, None] & inside_columns[:, None, :])[:, None]


def _covered(centre: Tensor, side: int) -> Tensor:
    """Whether each of `side` pixels [B, side] lies in the square."""
    distance = torch.arange(side, device=centre.device) + 0.5 - (centre * side)[:, None]
    return distance.abs() <= side * CUTOUT / 2
