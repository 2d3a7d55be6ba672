"""Confidence intervals have their nominal coverage."""

import numpy as np
import pytest

from evaluation.statistics.intervals import mean_interval, ratio_interval


def test_the_interval_of_a_mean_has_its_coverage() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(2000):
        interval = mean_interval(rng.normal(3.0, 0.5, 4).tolist())
        hits += interval.low <= 3.0 <= interval.high
    assert hits / 2000 == pytest.approx(0.95, abs=0.02)


def test_the_interval_of_a_ratio_has_its_coverage() -> None:
    """For two samples of one distribution, the interval contains 1 in about 95 % of the cases."""
    rng, hits = np.random.default_rng(0), 0
    for _ in range(1000):
        interval = ratio_interval(*(np.exp(rng.normal(0, 0.1, 3)).tolist() for _ in range(2)))
        hits += interval.low <= 1 <= interval.high
    assert 0.93 <= hits / 1000 <= 0.99
    assert ratio_interval([2.0, 2.0], [1.0, 1.0]).low == pytest.approx(2.0)


def test_the_interval_of_a_ratio_allows_negative_jackknife_values() -> None:
    """The interval contains the true ratio in about 19 of 20 cases."""
    rng = np.random.default_rng(0)
    far = [(rng.normal(1.0, 1.2, 10) + 0.5).tolist() for _ in range(400)]
    base = np.full(10, 1.0) + rng.normal(0, 0.01, 10)
    with_negatives = [values for values in far if min(values) < 0 < 0.3 < np.mean(values)]
    intervals = [ratio_interval(values, base.tolist()) for values in with_negatives]
    covered = np.mean([i.low < 1.5 / base.mean() < i.high for i in intervals])
    assert len(intervals) > 100 and 0.9 < covered <= 1
    near = [1.0, 1.1, 0.9, 1.05, 0.95]
    shifted = ratio_interval([*near, -0.01], [1.0, 1.0, 1.1])
    assert shifted.low < np.mean([*near, -0.01]) / np.mean([1.0, 1.0, 1.1]) < shifted.high
