"""Held-out and generated images are compared by distances of equally many images."""

from dataclasses import replace
from statistics import fmean, stdev
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from evaluation.metrics.comparison import MATCHED_SETS, FeatureComparison
from evaluation.metrics.pairwise import group_masks, group_of, shuffle
from evaluation.metrics.scores import compute_scores
from evaluation.statistics.frechet import Gaussian, frechet_distance
from evaluation.statistics.intervals import GROUPS, jackknife, mean_interval
from tests.helpers.evaluators import random_features, toy_evaluator


def compare(x: Tensor, plan: Any, kept: Tensor | None = None) -> FeatureComparison:
    nothing: Any = None
    return FeatureComparison("a", x, nothing, plan, kept)


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


def test_the_jackknife_leaves_a_group_out_of_the_same_sets() -> None:
    toy = toy_evaluator().reference
    reference = replace(toy, held_out={k: v[:100] for k, v in toy.held_out.items()})
    whole, *parts = compute_scores(toy.held_out, None, reference, groups=4)
    for name, x in toy.held_out.items():
        sets = shuffle(300).split(100)
        for g, scores in enumerate((whole, *parts), start=-1):
            left = [Gaussian.fit(x[rows[group_of(300, 4)[rows] != g]]) for rows in sets]
            expected = fmean(frechet_distance(gaussian, reference.gaussians[name]) for gaussian in left)
            assert scores.values("fd_matched")[name] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("generated", "held_out"), [(1000, 100), (600, 300)])
def test_its_interval_is_that_of_other_noise(generated: int, held_out: int) -> None:
    """With new random sets for each group the interval would be several times too wide."""
    plan: Any = SimpleNamespace(
        labels=torch.zeros(generated),
        held_out={"a": torch.zeros(held_out, 1)},
        gaussians={"a": Gaussian.fit(random_features(5000, 8, 0))},
    )
    distances, widths = [], []
    for seed in range(1, 21):
        x = random_features(generated, 8, seed, scale=1.1)
        whole, *parts = (compare(x[m], plan, m).matched_distance() for m in group_masks(generated, GROUPS))
        distances.append(whole)
        widths.append(mean_interval(jackknife(whole, parts)).half_width)
    quantile = 2.262  # of Student's t with nine degrees of freedom
    assert fmean(widths) == pytest.approx(quantile * stdev(distances), rel=0.5)


def test_sets_of_two_images_have_an_interval() -> None:
    """A set without one of its two images would have no covariance."""
    plan: Any = SimpleNamespace(
        labels=torch.zeros(8),
        held_out={"a": torch.zeros(2, 4)},
        gaussians={"a": Gaussian.fit(random_features(9, 4, 1))},
    )
    x = random_features(8, 4, 0)
    assert all(compare(x[m], plan, m).matched_distance() > 0 for m in group_masks(8, GROUPS))
