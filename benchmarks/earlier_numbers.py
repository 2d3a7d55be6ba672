"""Lets the trainer of this tree draw the random numbers of commit ca1a315, so that the losses of both can be compared.

There, each sample had a generator of its own, which a turn asked in one order: noise, labels, then what its losses
need. A critic turn drew the training images after the noise of its denoising loss; here they are read ahead, by a
source of their own. It holds for DMD2 with heads on the critic, one step and no further losses.
"""

import hashlib
from typing import Any

import torch
from torch import Tensor

from dmd.training.random_source import RandomSource

IMAGES = "images"  # purpose of the source that draws training images
BEFORE_IMAGES = 2  # draws of integers in a critic turn before them: labels and t


def install(noise_shape: tuple[int, ...]) -> None:
    """Replace the numbers of RandomSource. noise_shape: of the noise of one image."""

    def noise(source: Any, *shape: int) -> Tensor:
        return torch.stack([torch.randn(shape, generator=g) for g in _generators(source)])

    def integers(source: Any, low: int, high: int) -> Tensor:
        generators = _generators(source)
        if source.turn[2] == "critic" and not source.purpose:
            if source.drawn == BEFORE_IMAGES:
                _draw(generators, 0, 1)  # the images, which a source of their own draws here
            source.drawn += 1
        return _draw(generators, low, high)

    def fork(source: Any, purpose: str, device: Any = None) -> RandomSource:
        new = RandomSource(*source.turn, source.samples, source.device if device is None else device, purpose)
        if purpose == IMAGES:
            noise(new, *noise_shape)
            for _ in range(BEFORE_IMAGES):
                _draw(_generators(new), 0, 1)
            noise(new, *noise_shape)
        return new

    for function in (noise, integers, fork):
        setattr(RandomSource, function.__name__, function)


def _generators(source: Any) -> list[torch.Generator]:
    """The generators of the samples of a source, each as the draws before have left it."""
    if not hasattr(source, "generators"):
        source.generators = [_generator(*source.turn, sample) for sample in source.samples]
        source.drawn = 0
    return source.generators


def _generator(*key: object) -> torch.Generator:
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little", signed=True))


def _draw(generators: list[torch.Generator], low: int, high: int) -> Tensor:
    return torch.tensor([int(torch.randint(low, high, (), generator=g)) for g in generators])
