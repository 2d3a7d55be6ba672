"""Random numbers of a batch: the numbers of sample i depend only on (seed, step, turn, draw, i).

A batch can therefore be split over processes and accumulated in parts, and a run can be resumed, with equal results.
"""

import hashlib
import math

import torch
from torch import Tensor

from dmd.training.philox import random_words

WORDS = 4  # per block of random bits
LARGEST_UNIFORM = 2**31  # float32 rounds 2^31 - 1 to it


class RandomSource:
    """Random numbers for some samples of a batch, made on the device that needs them.

    Integers and uniform numbers are equal on every device; normal numbers agree to 1e-5, since devices round logarithms
    and cosines differently.
    """

    def __init__(
        self, seed: int, step: int, network: str, samples: range, device: torch.device | str = "cpu", purpose: str = ""
    ) -> None:
        """network: the one that trains; samples: positions in the whole batch, over all processes."""
        self.turn = (seed, step, network)
        self.samples, self.device, self.purpose = samples, device, purpose
        self.draws = 0

    def fork(self, purpose: str, device: torch.device | str | None = None) -> "RandomSource":
        """A source for one purpose on a device, whose numbers do not depend on what this source has drawn."""
        return RandomSource(*self.turn, self.samples, self.device if device is None else device, purpose)

    def noise(self, *shape: int) -> Tensor:
        """Unit noise [B, *shape], float32."""
        n = math.prod(shape)
        return _normal(self._words(-(-n // WORDS)))[:, :n].reshape(len(self.samples), *shape)

    def noise_like(self, x: Tensor) -> Tensor:
        """Unit noise with the shape, type and device of x [B, ...]."""
        return self.noise(*x.shape[1:]).to(x)

    def integers(self, low: int, high: int) -> Tensor:
        """[B] integers, uniform over low..high-1 but for a bias below (high - low) / 2^63.

        Raises ValueError if that range is empty.
        """
        if low >= high:
            raise ValueError(f"there is no integer from {low} to {high - 1}")
        bits = self._words(1).view(torch.int64)[:, 0] & (2**63 - 1)
        return bits % (high - low) + low

    def uniform(self) -> Tensor:
        """[B] numbers in [0, 1), float32, multiples of 2^-24."""
        return (self._words(1)[:, 0] & (2**24 - 1)).float() * 2**-24

    def common_integer(self, high: int) -> int:
        """One integer below `high` for the whole batch, equal in every process; made on the host, without a tensor."""
        return self._next_key("all") % high

    def _words(self, blocks: int) -> Tensor:
        """Random int32 words [B, 4 blocks]; those of position i start at counter i x blocks."""
        words = random_words(self._next_key(), self.samples.start * blocks, len(self.samples) * blocks, self.device)
        return words.view(len(self.samples), WORDS * blocks)

    def _next_key(self, *more: str) -> int:
        """A key of 64 bits for the next draw."""
        name = repr((*self.turn, self.purpose, self.draws, *more))
        self.draws += 1
        return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


def _normal(words: Tensor) -> Tensor:
    """Unit normal numbers [B, N] from random words [B, N] of even N, by Box and Muller's transform; at most 6.6."""
    radius, angle = words.chunk(2, dim=1)
    uniform = (radius & (LARGEST_UNIFORM - 1)).float().add_(1).div_(LARGEST_UNIFORM)  # in (0, 1]
    radius = uniform.log_().mul_(-2).sqrt_()
    angle = angle.float().mul_(math.pi / 2**31)
    out = torch.empty_like(words, dtype=torch.float32)
    first, second = out.chunk(2, dim=1)
    torch.cos(angle, out=first).mul_(radius)
    torch.sin(angle, out=second).mul_(radius)
    return out
