"""Identities of the MMD loss in Nystrom's form."""

import pytest
import torch
from torch import Tensor

from dmd.distillation.moments.discrepancy import (
    Landmarks,
    gaussian,
    k_means,
    mean_discrepancy,
    normalised,
    squared_distances,
)


def features(seed: int, n: int = 60, d: int = 4) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=rng, dtype=torch.float64) + seed % 3


def started(real: Tensor, count: int) -> Landmarks:
    landmarks = Landmarks(min(count, len(real)), real.shape[1])
    landmarks.start(real, seed=0)
    return landmarks


def exact(a: Tensor, b: Tensor, bandwidth: Tensor) -> Tensor:
    return gaussian(a, a, bandwidth).mean() - 2 * gaussian(a, b, bandwidth).mean() + gaussian(b, b, bandwidth).mean()


def test_with_all_data_as_landmarks_the_discrepancy_is_exact() -> None:
    real, f = features(0), features(1)
    m = started(real, 1000)
    assert torch.equal(m.get_buffer("points"), real)
    torch.testing.assert_close(m.distance(f), exact(f, real, m.get_buffer("bandwidth")), rtol=1e-6, atol=1e-8)
    assert abs(m.distance(real).item()) < 1e-8


def test_the_cross_term_is_an_inner_product_of_nystrom_features() -> None:
    """phi(f) = K_ZZ^(-1/2) k(Z, f): its mean over f and over the data give the last two terms."""
    real, f = features(0), features(1)
    m = started(real, 12)
    points, bandwidth = m.get_buffer("points"), m.get_buffer("bandwidth")
    values, vectors = torch.linalg.eigh(gaussian(points, points, bandwidth))
    root = vectors / values.sqrt() @ vectors.T
    of_f, of_data = ((root @ gaussian(points, v, bandwidth)).mean(dim=1) for v in (f, real))
    expected = gaussian(f, f, bandwidth).mean() - 2 * of_f @ of_data + of_data @ of_data
    torch.testing.assert_close(m.distance(f), expected, rtol=1e-6, atol=1e-8)
    assert m.distance(f) > 0


def test_the_bandwidth_is_the_root_of_the_median_squared_distance() -> None:
    real = features(0, n=21)
    squared = torch.pdist(real).square()
    torch.testing.assert_close(started(real, 21).get_buffer("bandwidth"), squared.median().sqrt())


def test_squared_distances_and_the_gaussian_kernel_are_those_of_cdist() -> None:
    a, b = features(0, 5), features(1, 7)
    torch.testing.assert_close(squared_distances(a, b), torch.cdist(a, b).square())
    bandwidth = torch.tensor(1.5, dtype=torch.float64)
    torch.testing.assert_close(gaussian(a, b, bandwidth), (-torch.cdist(a, b).square() / 4.5).exp())


def test_the_gradient_equals_finite_differences() -> None:
    m, f = started(features(0), 10), features(1, n=4).requires_grad_()
    assert torch.autograd.gradcheck(m.distance, f, eps=1e-6, atol=1e-7)


def test_the_order_of_a_batch_has_no_effect_and_equal_images_count_twice() -> None:
    m, f = started(features(0), 10), features(1)
    torch.testing.assert_close(m.distance(f.flip(0)), m.distance(f))
    torch.testing.assert_close(m.distance(torch.cat([f, f])), m.distance(f))  # the diagonal is kept


def test_the_loss_divides_by_a_constant() -> None:
    x = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    loss = normalised(x.square())
    assert loss.item() == pytest.approx(1, abs=1e-7)
    assert torch.autograd.grad(loss, x)[0].item() == pytest.approx(6 / 9)


def test_k_means_finds_separate_clusters() -> None:
    middles = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]], dtype=torch.float64)
    rng = torch.Generator().manual_seed(0)
    points = middles.repeat(30, 1) + 0.1 * torch.randn(90, 2, generator=rng, dtype=torch.float64)
    distances = [squared_distances(middles, k_means(points, 3, seed)).min(dim=1).values.max() for seed in range(5)]
    assert min(distances) < 0.01
    assert torch.equal(k_means(points, 90, 0), points)


def test_landmarks_need_no_distinct_images() -> None:
    real = features(0).repeat(2, 1)
    m, f = started(real, 120), features(1)
    torch.testing.assert_close(m.distance(f), exact(f, real, m.get_buffer("bandwidth")), rtol=1e-5, atol=1e-7)
    assert mean_discrepancy(f, *[m.get_buffer(n) for n in ("points", "weights", "norm", "bandwidth")]).isfinite()
