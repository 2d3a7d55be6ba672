"""Distances between two sets of features [N, D]: Frechet, kernel, precision and recall. All in float64."""

from dataclasses import dataclass

import torch
from torch import Tensor

CHUNK = 1024  # rows of a distance matrix held at once


@dataclass(frozen=True)
class Gaussian:
    """Mean [D] and covariance [D, D] (unbiased) of features."""

    mean: Tensor
    cov: Tensor

    @classmethod
    def fit(cls, features: Tensor) -> "Gaussian":
        x = features.double()
        return cls(x.mean(dim=0), torch.cov(x.T).reshape(x.shape[1], x.shape[1]))


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """|mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)) (Heusel et al. 2017).

    The trace of the root is the sum of the roots of the eigenvalues of S_a^(1/2) S_b S_a^(1/2), which is symmetric.
    """
    values, vectors = torch.linalg.eigh(a.cov)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ b.cov @ root).clamp_min(0).sqrt().sum()
    return ((a.mean - b.mean).square().sum() + a.cov.trace() + b.cov.trace() - 2 * cross).item()


def kernel_distance(x: Tensor, y: Tensor) -> float:
    """KID: unbiased squared MMD with the kernel (x.y / D + 1)^3 (Binkowski et al. 2018), on all samples at once."""
    x, y = x.double(), y.double()
    n, m = len(x), len(y)

    def total(a: Tensor, b: Tensor) -> Tensor:
        return torch.stack([_cube(part @ b.T / a.shape[1] + 1).sum() for part in a.split(CHUNK)]).sum()

    def within(a: Tensor) -> Tensor:
        return total(a, a) - _cube(a.square().sum(dim=1) / a.shape[1] + 1).sum()

    return (within(x) / (n * (n - 1)) + within(y) / (m * (m - 1)) - 2 * total(x, y) / (n * m)).item()


def _cube(x: Tensor) -> Tensor:
    return x * x * x  # several times faster than x ** 3


def neighbour_radii(x: Tensor, k: int) -> Tensor:
    """Distance [N] of each row to its k-th nearest other row."""
    x = x.double()
    # k + 1: every row is its own nearest neighbour. topk is several times faster than kthvalue.
    return torch.cat([torch.cdist(part, x).topk(k + 1, dim=1, largest=False).values[:, -1] for part in x.split(CHUNK)])


def share_within(points: Tensor, centres: Tensor, radii: Tensor) -> float:
    """Share of points that lie in the ball of at least one centre."""
    points, centres = points.double(), centres.double()
    inside = [(torch.cdist(part, centres) <= radii).any(dim=1) for part in points.split(CHUNK)]
    return torch.cat(inside).double().mean().item()
