"""Fréchet distances agree with closed forms and with clean-fid."""

import numpy as np
import pytest
import torch
from cleanfid import fid as cleanfid

from evaluation.statistics.frechet import Gaussian, extrapolate_frechet, frechet_distance
from tests.helpers.evaluators import random_features


def test_frechet_distance_of_gaussians_in_closed_form() -> None:
    """Diagonal covariances: sum (mu1 - mu2)^2 + (s1 - s2)^2."""
    mu1, mu2, s1, s2 = torch.rand(4, 6, dtype=torch.float64)
    expected = ((mu1 - mu2) ** 2 + (s1 - s2) ** 2).sum().item()
    distance = frechet_distance(Gaussian(mu1, torch.diag(s1**2)), Gaussian(mu2, torch.diag(s2**2)))
    assert distance == pytest.approx(expected, rel=1e-10)


def test_frechet_distance_equals_clean_fid() -> None:
    x, y = random_features(400, 32, 0), random_features(500, 32, 1, 0.3, 1.2)
    expected = cleanfid.fid_from_feats(x.numpy().astype(np.float64), y.numpy().astype(np.float64))
    assert frechet_distance(Gaussian.fit(x), Gaussian.fit(y)) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(Gaussian.fit(x), Gaussian.fit(x)) == pytest.approx(0, abs=1e-8)


def test_frechet_distance_with_fewer_samples_than_dimensions() -> None:
    x, y = random_features(20, 32, 0), random_features(25, 32, 1)
    expected = cleanfid.fid_from_feats(x.numpy().astype(np.float64), y.numpy().astype(np.float64))
    assert frechet_distance(Gaussian.fit(x), Gaussian.fit(y)) == pytest.approx(expected, rel=1e-3)


def test_the_extrapolated_distance_is_near_that_of_the_distributions() -> None:
    """Unlike the plain distance, it is near 0 for equal distributions, and near the closed form for different ones."""
    d = 8
    same = Gaussian(torch.zeros(d, dtype=torch.float64), torch.eye(d, dtype=torch.float64))
    x = torch.randn(400, d, generator=torch.Generator().manual_seed(1))
    plain = frechet_distance(Gaussian.fit(x), same)
    assert plain > 0.05 and abs(extrapolate_frechet(x, same)) < plain / 4
    assert extrapolate_frechet(x + 0.5, same) == pytest.approx(0.25 * d, rel=0.1)
