"""Random images with labels, as they are stored and as a network reads them."""

import torch

from dmd.data.shards import to_unit
from dmd.data.splits import DIGIT_NAMES, Split
from dmd.distillation.batches import TrainingImages

CAPTIONS = tuple(f"a handwritten {name}" for name in DIGIT_NAMES)


def split(n: int = 40) -> Split:
    """A split of random 8x8 images with labels and captions."""
    rng = torch.Generator().manual_seed(11)
    images = torch.randint(256, (n, 1, 8, 8), generator=rng, dtype=torch.uint8)
    return Split(images, torch.arange(n) % 10, ["a digit"] * n, DIGIT_NAMES, ("a digit",) * 10)


def reals(n: int = 40) -> TrainingImages:
    """The images of `split(n)` in [-1, 1], as the networks read them."""
    return TrainingImages(to_unit(split(n).images), split(n).labels)
