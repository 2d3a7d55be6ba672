"""Batches of training images and of teacher pairs, drawn sample by sample."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dmd.data.shards import Rows
from dmd.teachers.pairs import Pairs
from dmd.training.random_source import RandomSource


@dataclass(frozen=True)
class TrainingImages:
    """The data as a network sees them: x [N, C, H, W], images in [-1, 1] or their latents, and labels [N]."""

    x: Tensor | Rows
    labels: Tensor

    def draw(self, rng: RandomSource, like: Tensor) -> tuple[Tensor, Tensor]:
        """Draw x [B, C, H, W] and labels [B] with replacement; x gets the type and device of `like`."""
        index = rng.fork("images", _device(self.x)).integers(0, len(self.x))
        return self.x[index].to(like), self.labels[index.to(self.labels.device)].to(like.device)


def draw_pairs(pairs: Pairs, rng: RandomSource) -> Pairs:
    """Draw one pair for each sample of `rng`, with replacement."""
    index = rng.fork("pairs", pairs.z.device).integers(0, len(pairs.z))
    return Pairs(pairs.z[index], pairs.x[index], None if pairs.labels is None else pairs.labels[index])


def _device(x: Tensor | Rows) -> torch.device:
    """The device that the images are on; rows on disk are read by the CPU."""
    return x.device if isinstance(x, Tensor) else torch.device("cpu")
