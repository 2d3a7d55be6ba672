"""The score of a validation: the mean of the judges' Fréchet distances, with a value for each draw.

A draw is a set of generated images together with its share of the real ones. The jackknife leaves out one draw at a
time, generated and real images alike. Its pseudo-values contain the noise of both, and their mean is free of the bias
of a Fréchet distance of few images: that bias is a constant over the number of images, generated or real, and leaving
out a draw changes both numbers by the same factor.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor

from evaluation.statistics.frechet import Gaussian, frechet_distance


@dataclass(frozen=True)
class Judge:
    """One judge's view of the real images."""

    variance: float  # of all real features: the trace of their covariance
    whole: Gaussian  # of all real features
    parts: list[Gaussian]  # of those that remain without the share of each draw

    @classmethod
    def fit(cls, features: Tensor, draws: int) -> "Judge":
        """features: [N, D] of the real images; image i belongs to draw i % draws."""
        whole, draw = Gaussian.fit(features), torch.arange(len(features)) % draws
        return cls(whole.cov.trace().item(), whole, [Gaussian.fit(features[draw != i]) for i in range(draws)])

    def distances(self, draws: Sequence[Tensor]) -> list[float]:
        """The jackknife's pseudo-values, one for each draw, of the Fréchet distance as a share of the variance.

        draws: features [M, D] of each draw's generated images.
        """
        n = len(draws)
        whole = frechet_distance(Gaussian.fit(torch.cat([*draws])), self.whole)
        parts = [
            frechet_distance(Gaussian.fit(torch.cat([*draws[:i], *draws[i + 1 :]])), reference)
            for i, reference in enumerate(self.parts)
        ]
        return [(n * whole - (n - 1) * part) / self.variance for part in parts]


def combine(distances: dict[str, list[float]]) -> list[float]:
    """The score of each draw: the mean over the judges. Shares of variance have a common scale, and may be negative."""
    return [fmean(values) for values in zip(*distances.values(), strict=True)]
