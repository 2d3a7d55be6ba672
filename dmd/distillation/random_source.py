"""Random numbers of a batch: the numbers of sample i depend only on (seed, step, turn, i).

A batch can therefore be split over processes and accumulated in parts, and a run can be resumed, with equal results.
"""

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor


class RandomSource:
    """Random numbers for some samples of a batch, drawn on the CPU so that every device gets equal numbers."""

    def __init__(self, seed: int, step: int, network: str, samples: Iterable[int]) -> None:
        """network: the one that trains in this turn; samples: positions in the whole batch, over all processes."""
        self.each = [_generator(seed, step, network, i) for i in samples]
        self.all = _generator(seed, step, network, "all")

    def noise(self, *shape: int) -> Tensor:
        """Unit noise [B, *shape]."""
        return torch.stack([torch.randn(shape, generator=g) for g in self.each])

    def noise_like(self, x: Tensor) -> Tensor:
        """Unit noise with the shape, type and device of x [B, ...]."""
        return self.noise(*x.shape[1:]).to(x)

    def integers(self, low: int, high: int) -> Tensor:
        """[B] integers, uniform over low..high-1."""
        return torch.tensor([int(torch.randint(low, high, (), generator=g)) for g in self.each])

    def common_integer(self, high: int) -> int:
        """One integer below `high` for the whole batch, equal in every process."""
        return int(torch.randint(high, (), generator=self.all))


def _generator(*key: object) -> torch.Generator:
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little", signed=True))
