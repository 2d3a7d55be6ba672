"""The jackknife measures the noise of a single replicate by leaving out parts of it."""

import statistics

import pytest
import torch
from torch import Tensor

from evaluation.statistics.frechet import Gaussian, frechet_distance
from evaluation.statistics.intervals import GROUPS, jackknife, mean_interval


def parts(x: Tensor) -> list[Tensor]:
    """All of x [N, D], then x without each group."""
    return [x, *(x[torch.arange(len(x)) % GROUPS != g] for g in range(GROUPS))]


def test_the_jackknife_of_a_mean_is_the_mean_of_each_group() -> None:
    """The jackknife interval of a mean is therefore that of GROUPS independent means."""
    x = torch.randn(200, 1, generator=torch.Generator().manual_seed(0)).double()
    whole, *rest = (part.mean().item() for part in parts(x))
    assert jackknife(whole, rest) == pytest.approx([x[g::GROUPS].mean().item() for g in range(GROUPS)])


def test_the_jackknife_of_a_frechet_distance_has_the_spread_of_other_noise() -> None:
    """The mean pseudo-value is the distance of all images; its error is the spread of independent sets' distances."""
    real = Gaussian(torch.zeros(4).double(), torch.eye(4).double())
    rng = torch.Generator().manual_seed(0)

    def distance(x: Tensor) -> float:
        return frechet_distance(Gaussian.fit(x), real)

    distances, errors = [], []
    for _ in range(30):
        x = 1.2 * torch.randn(500, 4, generator=rng).double() + 0.3
        whole, *rest = (distance(part) for part in parts(x))
        values = jackknife(whole, rest)
        assert statistics.fmean(values) == pytest.approx(distance(x))
        distances.append(statistics.fmean(values))
        errors.append(statistics.stdev(values) / GROUPS**0.5)
    assert statistics.fmean(errors) == pytest.approx(statistics.stdev(distances), rel=0.3)
    assert mean_interval(values).low < distances[-1] < mean_interval(values).high
