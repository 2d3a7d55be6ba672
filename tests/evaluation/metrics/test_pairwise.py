"""Pairwise measures agree with independent implementations, and react to dropped modes and to noise."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from cleanfid import fid as cleanfid
from prdc import compute_prdc
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from evaluation.metrics import pairwise
from evaluation.metrics.comparison import FeatureComparison
from evaluation.metrics.measures import MEASURES, FeatureMeasure
from evaluation.metrics.pairwise import mean_pairwise_distance, pairs_between, pairs_within
from tests.helpers.evaluators import random_features


def compute_measures(x: Tensor, y: Tensor, k: int) -> SimpleNamespace:
    """Pairwise measures of generated features x against reference features y."""
    statistics = pairs_between(x, y, pairs_within(y, k), k)[0][0]
    comparison = FeatureComparison("a", x, statistics, SimpleNamespace(neighbours=k))  # type: ignore[arg-type]
    names = ("kid", "precision", "recall", "density", "coverage")
    computed = {name: m.compute(comparison) for name in names if isinstance(m := MEASURES[name], FeatureMeasure)}
    return SimpleNamespace(**computed)


def test_kernel_distance_equals_clean_fid() -> None:
    """On a single subset of all samples, clean-fid's estimator is the same as ours."""
    x, y = random_features(120, 16, 0), random_features(120, 16, 1, 0.3)
    expected = cleanfid.kernel_distance(x.double().numpy(), y.double().numpy(), num_subsets=1, max_subset_size=120)
    assert compute_measures(x, y, 3).kid == pytest.approx(expected, rel=1e-6)


def test_a_kernel_that_is_added_to_the_table_gives_its_own_squared_mmd(monkeypatch: pytest.MonkeyPatch) -> None:
    def rbf(products: Tensor, squares: Tensor, dimensions: int) -> Tensor:
        return torch.exp(-squares / (2 * dimensions))

    x, y = random_features(120, 16, 0), random_features(90, 16, 1, 0.3)
    before = compute_measures(x, y, 3)
    monkeypatch.setitem(pairwise.KERNELS, "rbf", rbf)
    pairs = pairs_between(x, y, pairs_within(y, 3), 3)[0][0]

    def mean(a: Tensor, b: Tensor) -> float:
        kernel = torch.exp(-torch.cdist(a.double(), b.double()).square() / 32)
        return (kernel.mean() if a is not b else (kernel.sum() - len(a)) / (len(a) * (len(a) - 1))).item()

    assert pairs.squared_mmd("rbf") == pytest.approx(mean(x, x) + mean(y, y) - 2 * mean(x, y), rel=1e-9)
    assert compute_measures(x, y, 3) == before


def test_precision_and_recall_equal_a_brute_force_search() -> None:
    k = 3
    real, fake = random_features(150, 8, 0), random_features(130, 8, 1, 0.5)

    def share(points: Tensor, centres: Tensor) -> float:
        balls = NearestNeighbors(n_neighbors=k + 1).fit(centres.numpy()).kneighbors(centres.numpy())[0][:, -1]
        gaps = np.linalg.norm(points.numpy()[:, None] - centres.numpy()[None], axis=2)
        return float((gaps <= balls[None]).any(axis=1).mean())

    measures = compute_measures(fake, real, k)
    assert (measures.precision, measures.recall) == (pytest.approx(share(fake, real)), pytest.approx(share(real, fake)))


def test_recall_falls_with_dropped_modes_and_precision_with_noise() -> None:
    real = torch.cat([random_features(200, 4, i, shift=10.0 * i, scale=0.1) for i in range(5)])
    three_modes = torch.cat([random_features(200, 4, 10 + i, shift=10.0 * i, scale=0.1) for i in range(3)])
    measures = compute_measures(three_modes, real, 3)
    assert measures.precision > 0.9 and measures.recall == pytest.approx(0.6, abs=0.06)
    noisy = torch.cat([three_modes[:540], torch.rand(60, 4) * 1000 + 100])
    assert compute_measures(noisy, real, 3).precision == pytest.approx(measures.precision * 0.9, abs=0.03)


def test_density_and_coverage_equal_prdc() -> None:
    """So do precision and recall: prdc leaves out points on the border of a ball, but no random point lies there."""
    real, fake = random_features(300, 8, 0), random_features(260, 8, 1, 0.4, 0.8)
    measures = compute_measures(fake, real, 5)
    expected = compute_prdc(real_features=real.double().numpy(), fake_features=fake.double().numpy(), nearest_k=5)
    for name in ("precision", "recall", "density", "coverage"):
        assert getattr(measures, name) == pytest.approx(expected[name], rel=1e-3), name


def test_density_rises_in_a_crowd_and_coverage_falls_with_dropped_modes() -> None:
    real = torch.cat([random_features(200, 4, i, shift=10.0 * i, scale=0.1) for i in range(5)])
    modes = torch.cat([random_features(200, 4, 10 + i, shift=10.0 * i, scale=0.1) for i in range(3)])
    assert compute_measures(modes, real, 5).coverage == pytest.approx(0.6, abs=0.06)
    crowd = real[:1].repeat(1000, 1) + 1e-4 * torch.randn(1000, 4)
    assert compute_measures(crowd, real, 5).density > 0.5 and compute_measures(crowd, real, 5).coverage < 0.05


def test_many_pairs_show_their_progress(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(pairwise, "PROGRESS_PAIRS", 600 * 600)
    x = torch.randn(600, 3)
    pairs_within(x[:599], k=3)
    assert capsys.readouterr().err == ""
    pairs_within(x, k=3)
    assert capsys.readouterr().err.splitlines()[-1].startswith("images compared with 600, 3 features: 600/600")


def test_the_mean_pairwise_distance_leaves_out_equal_rows_and_is_zero_for_one_row() -> None:
    x = torch.tensor([[0.0], [1.0], [3.0]])
    assert mean_pairwise_distance(x) == pytest.approx((1 + 3 + 2) / 3) and mean_pairwise_distance(x[:1]) == 0
