"""The noise of a single draw is told by leaving parts of it out."""

import statistics

import pytest
import torch
from torch import Tensor

from evaluation.metrics.measures import mean_interval
from evaluation.metrics.schema import Scores
from evaluation.statistics.frechet import Gaussian, frechet_distance
from evaluation.statistics.jackknife import GROUPS, jackknife


def scores(fd: float, clip: float | None) -> Scores:
    rest = {name: {} for name in ("fd_held_out", "kid", "precision", "recall", "density", "coverage")}
    return Scores(fd={"a": fd}, **rest, nearest={}, clip_score=clip, accuracy=None, classes={})


def parts(x: Tensor) -> list[Tensor]:
    """All of x [N, D], then without each group."""
    return [x, *(x[torch.arange(len(x)) % GROUPS != g] for g in range(GROUPS))]


def test_of_a_mean_it_is_the_mean_of_each_group() -> None:
    """And so the interval is that of GROUPS independent means."""
    x = torch.randn(200, 1, generator=torch.Generator().manual_seed(0)).double()
    found = [s.clip_score for s in jackknife([scores(1.0, part.mean().item()) for part in parts(x)])]
    assert found == pytest.approx([x[g::GROUPS].mean().item() for g in range(GROUPS)])


def test_of_a_frechet_distance_it_knows_the_spread_of_other_noise() -> None:
    """Centred on the distance of all images, as wide as the distances of independent sets are apart."""
    real = Gaussian(torch.zeros(4).double(), torch.eye(4).double())
    rng = torch.Generator().manual_seed(0)

    def distance(x: Tensor) -> float:
        return frechet_distance(Gaussian.fit(x), real)

    distances, errors = [], []
    for _ in range(30):
        x = 1.2 * torch.randn(500, 4, generator=rng).double() + 0.3
        values = [s.fd["a"] for s in jackknife([scores(distance(part), None) for part in parts(x)])]
        assert statistics.fmean(values) == pytest.approx(distance(x))
        distances.append(statistics.fmean(values))
        errors.append(statistics.stdev(values) / GROUPS**0.5)
    assert statistics.fmean(errors) == pytest.approx(statistics.stdev(distances), rel=0.3)
    assert mean_interval(values).low < distances[-1] < mean_interval(values).high
