"""Batches of training images and of teacher pairs, drawn sample by sample."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from dmd.data.shards import Rows
from dmd.teachers.pairs import PairBatch, Pairs
from dmd.training.random_source import RandomSource

Drawn = tuple[Tensor, Tensor]  # x [B, C, H, W] and labels [B]


@dataclass(frozen=True)
class TrainingImages:
    """The data as a network sees them: x [N, C, H, W], images in [-1, 1] or their latents, and labels [N]."""

    x: Tensor | Rows
    labels: Tensor
    staged: dict[object, Drawn] = field(default_factory=dict, repr=False)  # read ahead, by turn and samples

    @property
    def device(self) -> torch.device:
        """The device that reads the images; it is the CPU for rows on disk."""
        return self.x.device if isinstance(self.x, Tensor) else torch.device("cpu")

    def draw(self, rng: RandomSource, like: Tensor) -> Drawn:
        """Draw x [B, C, H, W] and labels [B] with replacement; x gets the type and device of `like`.

        They depend on the turn and its samples alone: a second draw in the same turn gives the same images.
        """
        x, labels = self.staged.get((rng.turn, rng.samples)) or self.read(rng)
        return x.to(like), labels.to(like.device)

    def read(self, rng: RandomSource) -> Drawn:
        """The images that `draw` returns, in their own type and on their own device."""
        index = rng.fork("images", self.device).integers(0, len(self.x))
        return self.x[index], self.labels[index.to(self.labels.device)]


def draw_pairs(pairs: Pairs, rng: RandomSource) -> PairBatch:
    """Draw one pair for each sample of `rng`, with replacement, on the device of `rng`.

    They depend on the turn and its samples alone: a second draw in the same turn gives the same pairs.
    """
    z, x, labels = pairs.staged.get((rng.turn, rng.samples)) or pairs.read(rng)
    return PairBatch(z.to(rng.device), x.to(rng.device), None if labels is None else labels.to(rng.device))
