"""The noise of a single draw is told by leaving parts of it out."""

import statistics

import pytest
import torch
from torch import Tensor

from evaluation.distances import Gaussian, frechet_distance
from evaluation.jackknife import GROUPS, jackknife
from evaluation.measures import Conditions, mean_interval
from evaluation.schema import Scores


def scores(fd: float, clip: float | None) -> Scores:
    rest = {name: {} for name in ("fd_held_out", "kid", "precision", "recall", "density", "coverage")}
    return Scores(fd={"a": fd}, **rest, nearest={}, clip_score=clip, accuracy=None, classes={})


def conditions(n: int) -> Conditions:
    return Conditions(torch.arange(n), torch.zeros(n, 1), lambda features: features[:, 0])


def test_of_a_mean_it_is_the_mean_of_each_group() -> None:
    """And so the interval is that of GROUPS independent means."""
    x = torch.randn(200, 1, generator=torch.Generator().manual_seed(0)).double()

    def judge(features: dict[str, Tensor], given: Conditions | None) -> Scores:
        assert given is not None and len(given.labels) == len(features["a"])
        return scores(1.0, features["a"].mean().item())

    found = [s.clip_score for s in jackknife({"a": x}, conditions(200), judge)]
    assert found == pytest.approx([x[g::GROUPS].mean().item() for g in range(GROUPS)])


def test_of_a_frechet_distance_it_knows_the_spread_of_other_noise() -> None:
    """Centred on the distance of all images, as wide as the distances of independent sets are apart."""
    real = Gaussian(torch.zeros(4).double(), torch.eye(4).double())
    rng = torch.Generator().manual_seed(0)

    def judge(features: dict[str, Tensor], _: Conditions | None) -> Scores:
        return scores(frechet_distance(Gaussian.fit(features["a"]), real), None)

    distances, errors = [], []
    for _ in range(30):
        x = 1.2 * torch.randn(500, 4, generator=rng).double() + 0.3
        values = [s.fd["a"] for s in jackknife({"a": x}, None, judge)]
        assert statistics.fmean(values) == pytest.approx(judge({"a": x}, None).fd["a"])
        distances.append(statistics.fmean(values))
        errors.append(statistics.stdev(values) / GROUPS**0.5)
    assert statistics.fmean(errors) == pytest.approx(statistics.stdev(distances), rel=0.3)
    assert mean_interval(values).low < distances[-1] < mean_interval(values).high
