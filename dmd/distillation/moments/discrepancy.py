"""Maximum mean discrepancy of generated to training images as a loss, in Nystrom's form (iRDM, 2026).

The mean of the training images' features in the kernel's space is replaced by its projection on the span of landmarks,
so a batch is compared with all training images at the cost of comparing it with the landmarks.
"""

import torch
from torch import Tensor, nn

SMALLEST = 1e-7  # added to the discrepancy that a loss is divided by
RIDGE = 1e-10  # on the kernel matrix of landmarks, whose diagonal is one
ROUNDS = 10  # of k-means
CHUNK = 4096  # rows of a matrix of distances


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Squared distances |a_i - b_j|^2 [N, M] of points a [N, D] and b [M, D]."""
    return (a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T).clamp_min(0)


def gaussian(a: Tensor, b: Tensor, bandwidth: Tensor) -> Tensor:
    """Gaussian kernel k(a_i, b_j) = exp(-|a_i - b_j|^2 / (2 bandwidth^2)) [N, M] of points a [N, D] and b [M, D]."""
    return (-squared_distances(a, b) / (2 * bandwidth**2)).exp()


def mean_discrepancy(features: Tensor, landmarks: Tensor, weights: Tensor, norm: Tensor, bandwidth: Tensor) -> Tensor:
    """Squared discrepancy mean_ij k(f_i, f_j) - 2 mean_i k(f_i, Z) a + norm of features f [B, D]; a scalar.

    landmarks Z [L, D]; weights a [L] = K_ZZ^-1 mean k(Z, real); norm = a^T K_ZZ a. It is the squared distance between
    the mean of f and the projection of the training images' mean on the landmarks' span, hence not negative.
    """
    inner = (gaussian(features, landmarks, bandwidth) @ weights).mean()
    return gaussian(features, features, bandwidth).mean() - 2 * inner + norm


def normalised(discrepancy: Tensor) -> Tensor:
    """Discrepancy over its size, discrepancy / (|stopgrad(discrepancy)| + 1e-7): networks count alike in their sum."""
    return discrepancy / (discrepancy.detach().abs() + SMALLEST)


@torch.no_grad()
def k_means(features: Tensor, count: int, seed: int) -> Tensor:
    """Centres [count, D] of features [N, D] by Lloyd's algorithm from random features; all features if N <= count."""
    if len(features) <= count:
        return features
    first = torch.randperm(len(features), generator=torch.Generator().manual_seed(seed))[:count]
    centres = features[first.to(features.device)]
    for _ in range(ROUNDS):
        nearest = torch.cat([squared_distances(part, centres).argmin(dim=1) for part in features.split(CHUNK)])
        sums = torch.zeros_like(centres).index_add_(0, nearest, features)
        sizes = torch.zeros_like(centres[:, :1]).index_add_(0, nearest, torch.ones_like(features[:, :1]))
        centres = torch.where(sizes > 0, sums / sizes.clamp_min(1), centres)
    return centres


class Landmarks(nn.Module):
    """Landmarks among training images with their weights, for one network of D features: buffers in float64."""

    def __init__(self, count: int, width: int) -> None:
        """count: number of landmarks, at most that of training images; width: D."""
        super().__init__()
        self.register_buffer("points", torch.zeros(count, width, dtype=torch.float64))
        self.register_buffer("weights", torch.zeros(count, dtype=torch.float64))
        self.register_buffer("norm", torch.zeros((), dtype=torch.float64))
        self.register_buffer("bandwidth", torch.ones((), dtype=torch.float64))

    @torch.no_grad()
    def start(self, real: Tensor, seed: int) -> None:
        """Set landmarks, bandwidth and weights from the features [N, D] of training images.

        The bandwidth is the root of the median squared distance between the landmarks.
        """
        points = k_means(real, len(self.get_buffer("points")), seed)
        rows, columns = torch.triu_indices(len(points), len(points), 1, device=points.device)
        distances = squared_distances(points, points)[rows, columns]
        bandwidth = distances.median().clamp_min(torch.finfo(points.dtype).tiny).sqrt()
        kernel = gaussian(points, points, bandwidth)
        sums = torch.stack([gaussian(points, part, bandwidth).sum(dim=1) for part in real.split(CHUNK)])
        mean = sums.sum(dim=0) / len(real)
        kernel.diagonal().add_(RIDGE)
        weights = torch.linalg.solve(kernel, mean)
        values = {"points": points, "weights": weights, "norm": weights @ mean, "bandwidth": bandwidth}
        for name, value in values.items():
            self.get_buffer(name).copy_(value)

    def distance(self, features: Tensor) -> Tensor:
        """The squared discrepancy between a batch of features [B, D] and the training images; a scalar."""
        known = (self.get_buffer(name) for name in ("points", "weights", "norm", "bandwidth"))
        return mean_discrepancy(features, *known)
