"""The Frechet distance between two sets of features [N, D], in float64."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Gaussian:
    """Mean [D] and covariance [D, D] (unbiased) of features."""

    mean: Tensor
    cov: Tensor

    @classmethod
    def fit(cls, features: Tensor) -> "Gaussian":
        x = features.double()
        return cls(x.mean(dim=0), torch.cov(x.T).reshape(x.shape[1], x.shape[1]))

    @cached_property
    def root(self) -> Tensor:
        """S^(1/2) [D, D], the symmetric one."""
        values, vectors = torch.linalg.eigh(self.cov)
        return vectors * values.clamp_min(0).sqrt() @ vectors.T


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """|mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)) (Heusel et al. 2017).

    The trace of the root is the sum of the roots of the eigenvalues of S_b^(1/2) S_a S_b^(1/2), which is symmetric.
    b is the one that many are compared with: its root is kept.
    """
    cross = torch.linalg.eigvalsh(b.root @ a.cov @ b.root).clamp_min(0).sqrt().sum()
    return ((a.mean - b.mean).square().sum() + a.cov.trace() + b.cov.trace() - 2 * cross).item()
