"""Identities of FD-loss: its distance, its gradient, and its running moments."""

import pytest
import torch
from scipy.linalg import sqrtm
from torch import Tensor

from dmd.distillation.moments.frechet import RunningMoments, Sums, damped, frechet_distance


def features(seed: int, n: int = 200, d: int = 5, scale: float = 1.0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=rng, dtype=torch.float64)
    return scale * torch.randn(n, d, generator=rng, dtype=torch.float64) @ mix + torch.randn(d, generator=rng)


def sums(f: Tensor) -> Sums:
    total = Sums()
    for part in f.split(64):
        total.add(part)
    return total


def started(real: Tensor, generated: Tensor) -> RunningMoments:
    moments = RunningMoments(real.shape[1])
    moments.start(sums(real), sums(generated))
    return moments


def by_definition(f: Tensor, real: Tensor) -> float:
    """|m - m_r|^2 + tr(C + C_r - 2 (C C_r)^(1/2)), with scipy's matrix root."""
    c, c_r = (torch.cov(v.T, correction=0).numpy() for v in (f, real))
    mean = (f.mean(0) - real.mean(0)).square().sum().item()
    return mean + float((c + c_r - 2 * sqrtm(c @ c_r)).trace().real)


def test_equal_moments_have_neither_distance_nor_gradient() -> None:
    f = features(0).requires_grad_()
    distance = started(f.detach(), f.detach()).distance(f, 0.9)
    (grad,) = torch.autograd.grad(distance, f)
    assert abs(distance.item()) < 1e-10 and grad.abs().max() < 1e-10


def test_without_memory_the_distance_is_that_of_the_batch() -> None:
    f, real = features(0), features(1)
    assert started(real, features(2)).distance(f, 0.0).item() == pytest.approx(by_definition(f, real), rel=1e-9)


def test_diagonal_covariances_have_a_closed_form() -> None:
    s, r, m = (torch.tensor(v, dtype=torch.float64) for v in ([1.0, 4.0, 9.0], [4.0, 4.0, 0.25], [1.0, 0.0, -2.0]))
    second = torch.diag(s) + torch.outer(m, m)
    got = frechet_distance(m, second, torch.zeros_like(m), torch.diag(r.sqrt()), r.sum())
    assert got.item() == pytest.approx((m.square() + (s.sqrt() - r.sqrt()).square()).sum().item())


def test_the_gradient_equals_finite_differences_with_fixed_running_moments() -> None:
    moments, f = started(features(1), features(2, scale=2.0)), features(3, n=4, d=5)
    assert torch.autograd.gradcheck(lambda v: moments.distance(v, 0.7), f.requires_grad_(), eps=1e-6, atol=1e-7)


@pytest.mark.parametrize("decay", [0.0, 0.75])
def test_gradients_pass_through_the_batch_alone_by_one_less_decay(decay: float) -> None:
    """The gradient of the mixed mean on each feature is (1 - decay) / B."""
    moments, f = started(features(1), features(2)), features(3, n=4).requires_grad_()
    (grad,) = torch.autograd.grad(moments.mixed(f, decay)[0].sum(), f)
    torch.testing.assert_close(grad, torch.full_like(f, (1 - decay) / 4))


def test_features_that_never_vary_give_no_infinite_gradient() -> None:
    """A dead channel makes eigenvalues of zero, at which the root has no derivative."""
    dead = torch.cat([features(0), torch.zeros(200, 3)], dim=1)
    real = torch.cat([features(1), torch.zeros(200, 3)], dim=1)
    f = dead[:4].clone().requires_grad_()
    distance = started(real, dead).distance(f, 0.5)
    (grad,) = torch.autograd.grad(distance, f)
    assert grad.isfinite().all() and grad[:, :5].abs().min() > 0
    without = started(real[:, :5], dead[:, :5]).distance(f[:, :5], 0.5)
    assert distance.item() == pytest.approx(without.item(), rel=1e-9)


def test_running_moments_follow_the_batches_and_ignore_one_that_is_not_finite() -> None:
    moments, f = started(features(1), features(2)), features(3, n=8)
    mean, second = (moments.get_buffer(name).clone() for name in ("mean", "second"))
    moments.move(f, 0.9)
    torch.testing.assert_close(moments.get_buffer("mean"), 0.9 * mean + 0.1 * f.mean(0))
    torch.testing.assert_close(moments.get_buffer("second"), 0.9 * second + 0.1 * f.T @ f / 8)
    before = {name: value.clone() for name, value in moments.state_dict().items()}
    moments.move(f * float("nan"), 0.9)
    assert all(torch.equal(value, before[name]) for name, value in moments.state_dict().items())


def test_the_start_holds_the_moments_of_both_sets() -> None:
    real, generated = features(1), features(2)
    m = started(real, generated)
    root = m.get_buffer("real_root")
    torch.testing.assert_close(root @ root, torch.cov(real.T, correction=0))
    torch.testing.assert_close(m.get_buffer("mean"), generated.mean(0))
    torch.testing.assert_close(m.get_buffer("second"), generated.T @ generated / len(generated))
    assert {t.dtype for t in m.state_dict().values()} == {torch.float64}


def test_the_damped_loss_divides_by_a_constant() -> None:
    x = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    loss = damped(x.square())
    assert loss.item() == pytest.approx(9 / 9.01)
    assert torch.autograd.grad(loss, x)[0].item() == pytest.approx(6 / 9.01)
