"""Measures by nearest neighbours in feature space [N, D], in float64 and in chunks: 50,000 x 50,000 fit in memory."""

from dataclasses import dataclass

import torch
from torch import Tensor

from evaluation.distances import CHUNK, neighbour_radii, share_within


@dataclass(frozen=True)
class Manifold:
    """Precision and recall (Kynkaanniemi et al. 2019), density and coverage (Naeem et al. 2020)."""

    precision: float  # share of generated images within the real manifold
    recall: float  # share of real images within the generated manifold
    density: float  # real balls around a generated image, over k; above 1 where it crowds into the dense parts
    coverage: float  # share of real balls with a generated image in them


def manifold(generated: Tensor, real: Tensor, real_radii: Tensor, k: int) -> Manifold:
    """All four; generated [M, D], real [N, D], real_radii [N] the distance of each real image to its k-th neighbour."""
    counts, covered = 0.0, torch.zeros(len(real), dtype=torch.bool)
    inside = 0.0
    centres, radii = real.double(), real_radii.double()
    for part in generated.double().split(CHUNK):
        # Strictly within, as Naeem et al.; Kynkaanniemi et al. count the border too.
        distances = torch.cdist(part, centres)
        within = distances < radii
        counts += within.count_nonzero().item()
        covered |= within.any(dim=0)
        inside += (distances <= radii).any(dim=1).count_nonzero().item()
    return Manifold(
        precision=inside / len(generated),
        recall=share_within(real, generated, neighbour_radii(generated, k)),
        density=counts / (k * len(generated)),
        coverage=covered.double().mean().item(),
    )


def nearest(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Distance [N] of each row of x to its nearest row of y, and that row's index [N]."""
    parts = [torch.cdist(part, y.double()).min(dim=1) for part in x.double().split(CHUNK)]
    return torch.cat([p.values for p in parts]), torch.cat([p.indices for p in parts])


def mean_pairwise(x: Tensor) -> float:
    """Mean distance between two different rows of x [N, D]; 0 for a single row."""
    n = len(x)
    total = sum(torch.cdist(part, x.double()).sum().item() for part in x.double().split(CHUNK))
    return total / (n * (n - 1)) if n > 1 else 0.0
