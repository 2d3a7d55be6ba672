"""Batches of training images and of teacher pairs, drawn sample by sample."""

from dataclasses import dataclass

from torch import Tensor

from dmd.data.shards import Rows
from dmd.distillation.random_source import RandomSource
from dmd.teachers.pairs import Pairs


@dataclass(frozen=True)
class TrainingImages:
    """The data as a network sees them: x [N, C, H, W], images in [-1, 1] or their latents, and labels [N]."""

    x: Tensor | Rows
    labels: Tensor

    def draw(self, rng: RandomSource, like: Tensor) -> tuple[Tensor, Tensor]:
        """Draw x [B, C, H, W] and labels [B] with replacement; x gets the type and device of `like`."""
        index = rng.integers(0, len(self.x))
        return self.x[index].to(like), self.labels[index].to(like.device)


def draw_pairs(pairs: Pairs, rng: RandomSource) -> Pairs:
    """Draw one pair for each sample of `rng`, with replacement."""
    index = rng.integers(0, len(pairs.z)).to(pairs.z.device)
    return Pairs(pairs.z[index], pairs.x[index], None if pairs.labels is None else pairs.labels[index])
