"""Held-out and generated images are compared by distances of equally many images."""

from statistics import fmean
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from evaluation.metrics.comparison import MATCHED_SETS, FeatureComparison
from evaluation.statistics.frechet import Gaussian, frechet_distance
from tests.helpers.evaluators import random_features, toy_evaluator


def compare(x: Tensor, plan: Any) -> FeatureComparison:
    nothing: Any = None
    return FeatureComparison("a", x, nothing, plan)


def test_a_faithful_generator_has_the_matched_distance_of_held_out_images() -> None:
    """Its plain distance, of five times as many images, is several times lower than that of held-out images."""
    held_out = [random_features(60, 8, seed) for seed in range(100, 112)]
    plan: Any = SimpleNamespace(
        labels=torch.zeros(300),
        held_out={"a": held_out[0]},
        gaussians={"a": Gaussian.fit(random_features(300, 8, 1))},
    )
    real = fmean(compare(x, plan).matched_distance() for x in held_out)
    fair = compare(random_features(300, 8, 2), plan)
    assert fair.matched_distance() == pytest.approx(real, rel=0.2)
    assert fair.frechet_distance(plan.gaussians) < 0.6 * real


def test_the_figures_of_held_out_images_hold_the_matched_distance() -> None:
    evaluator = toy_evaluator()
    labels = evaluator.reference.labels
    real = evaluator.evaluate_real(SimpleNamespace(labels=labels, captions=[str(i) for i in labels.tolist()]))  # type: ignore[arg-type]
    for name, fd in real.fd.items():
        assert real.fd_matched[name] == pytest.approx(fd, abs=1e-9)  # the images come in another order


@pytest.mark.parametrize(
    ("generated", "samples", "held_out", "sizes"),
    [(100, 100, 30, [30] * 3), (900, 900, 30, [30] * MATCHED_SETS), (50, 50, 80, [50]), (80, 50, 80, [50])],
)
def test_the_matched_distance_is_the_mean_over_disjoint_sets(
    generated: int, samples: int, held_out: int, sizes: list[int]
) -> None:
    x, reference = random_features(generated, 4, 0), Gaussian.fit(random_features(200, 4, 1))
    plan: Any = SimpleNamespace(
        labels=torch.zeros(samples), held_out={"a": torch.zeros(held_out, 4)}, gaussians={"a": reference}
    )
    order = torch.randperm(generated, generator=torch.Generator().manual_seed(0))
    sets = [x[rows] for rows in order[: sum(sizes)].split(sizes)]
    expected = sum(frechet_distance(Gaussian.fit(s), reference) for s in sets) / len(sizes)
    assert compare(x, plan).matched_distance() == pytest.approx(expected, rel=1e-12)
