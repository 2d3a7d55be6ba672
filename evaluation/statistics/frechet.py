"""Fréchet distance between two sets of features [N, D] in float64, and its extrapolation to infinitely many samples."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

ROWS = 4096  # rows in float64 at a time; a copy of all features of 50,000 images would be hundreds of megabytes
SIZES = 8  # numbers of samples for the extrapolation, evenly spaced from a quarter of all samples to all of them


@dataclass(frozen=True)
class Gaussian:
    """Mean [D] and unbiased covariance [D, D] of features."""

    mean: Tensor
    cov: Tensor

    @classmethod
    def fit(cls, features: Tensor) -> "Gaussian":
        """Gaussian with the moments of `features` [N, D]."""
        parts, n = features.split(ROWS), len(features)
        mean = torch.stack([part.double().sum(dim=0) for part in parts]).sum(dim=0) / n
        scatter = torch.zeros(features.shape[1], features.shape[1], dtype=torch.float64)
        for part in parts:
            centred = part.double() - mean
            scatter.addmm_(centred.T, centred)
        return cls(mean, scatter / (n - 1))

    @cached_property
    def root(self) -> Tensor:
        """Symmetric square root S^(1/2) [D, D] of the covariance."""
        values, vectors = torch.linalg.eigh(self.cov)
        return vectors * values.clamp_min(0).sqrt() @ vectors.T


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """Fréchet distance |mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)) (Heusel et al. 2017).

    The trace of the root is the sum of the square roots of the eigenvalues of S_b^(1/2) S_a S_b^(1/2), which is
    symmetric. Pass the reference as `b`: its root is computed once and kept.
    """
    cross = torch.linalg.eigvalsh(b.root @ a.cov @ b.root).clamp_min(0).sqrt().sum()
    return ((a.mean - b.mean).square().sum() + a.cov.trace() + b.cov.trace() - 2 * cross).item()


def extrapolate_frechet(features: Tensor, reference: Gaussian, seed: int = 0) -> float:
    """FD-infinity (Chong and Forsyth 2020) of features [N, D]: the intercept of a line through FD over 1/N.

    The distance of n samples exceeds its limit by about c / n. Each n gets N // n disjoint random subsets, so that
    every sample has the same weight; the distance of each subset is one point of the fit.
    """
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(seed))
    inverse_sizes, distances = [], []
    for size in np.linspace(len(features) // 4, len(features), SIZES).astype(int).tolist():
        for subset in order[: len(order) // size * size].split(size):
            inverse_sizes.append(1 / size)
            distances.append(frechet_distance(Gaussian.fit(features[subset]), reference))
    return float(np.polyfit(inverse_sizes, distances, 1)[1])
