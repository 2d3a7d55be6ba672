"""The Frechet distance for infinitely many samples: with N of them it is too large by about a constant over N."""

import numpy as np
import torch
from torch import Tensor

from evaluation.statistics.frechet import Gaussian, frechet_distance

SIZES = 8  # sample counts, from a quarter of all to all


def frechet_infinity(features: Tensor, real: Gaussian, seed: int = 0) -> float:
    """FD-infinity (Chong and Forsyth 2020): the intercept of a line through FD over 1/N; features [N, D].

    Each count gets N/count disjoint subsets, so that every feature weighs the same.
    """
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(seed))
    inverse, distances = [], []
    for size in np.linspace(len(features) // 4, len(features), SIZES).astype(int).tolist():
        for subset in order[: len(order) // size * size].split(size):
            inverse.append(1 / size)
            distances.append(frechet_distance(Gaussian.fit(features[subset]), real))
    return float(np.polyfit(inverse, distances, 1)[1])
