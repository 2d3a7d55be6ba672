"""The losses satisfy the identities of DMD's equations 6 to 9 (Yin et al. 2024)."""

import pytest
import torch
from torch import Tensor

from dmd.distillation.losses import denoising_loss, distribution_matching_loss, regression_loss, score_difference

B, SHAPE = 4, (3, 8, 8)


def triple(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Random x, real and fake [B, C, H, W] in float64."""
    rng = torch.Generator().manual_seed(seed)
    x, real, fake = (torch.randn(B, *SHAPE, generator=rng, dtype=torch.float64) for _ in range(3))
    return x.requires_grad_(), real, fake


def gradient(x: Tensor, real: Tensor, fake: Tensor, normaliser_min: float = 1e-4) -> Tensor:
    """The gradient of the distribution matching loss with respect to x."""
    return torch.autograd.grad(distribution_matching_loss(x, score_difference(x, real, fake, normaliser_min)), x)[0]


def test_the_gradient_is_the_normalised_score_difference() -> None:
    """d loss / dx = (fake - real) / mean|x - real| / numel, with one normaliser per sample."""
    x, real, fake = triple()
    w = (x - real).abs().mean(dim=(1, 2, 3), keepdim=True)
    torch.testing.assert_close(gradient(x, real, fake), ((fake - real) / w / x.numel()).detach(), rtol=1e-10, atol=0)


def test_a_sample_does_not_change_the_gradient_of_another() -> None:
    x, real, fake = triple()
    before = gradient(x, real, fake)
    other = real.clone()
    other[0] *= 100
    torch.testing.assert_close(gradient(x, other, fake)[1:], before[1:], rtol=0, atol=0)


def test_the_gradient_is_zero_when_the_scores_agree() -> None:
    x, real, _ = triple()
    assert gradient(x, real, real).abs().max() == 0


def test_the_gradient_does_not_depend_on_the_scale_of_the_differences() -> None:
    """Scaling (fake - real) and (x - real) by the same factor does not change the gradient."""
    x, real, fake = triple()
    scaled = (real + 7 * (x - real)).detach().requires_grad_()
    torch.testing.assert_close(
        gradient(scaled, real, real + 7 * (fake - real)), gradient(x, real, fake), rtol=1e-10, atol=0
    )


def test_the_normaliser_is_clamped() -> None:
    """At x = real the gradient is (fake - real) / normaliser_min / numel."""
    _, real, fake = triple()
    x = real.clone().requires_grad_()
    expected = (fake - real) / 1e-2 / x.numel()
    torch.testing.assert_close(gradient(x, real, fake, 1e-2), expected, rtol=1e-10, atol=0)


def test_no_gradient_reaches_the_scores() -> None:
    x, real, fake = (v.detach().requires_grad_() for v in triple())
    distribution_matching_loss(x, score_difference(x, real, fake, 1e-4)).backward()
    assert x.grad is not None and real.grad is None and fake.grad is None


def test_denoising_loss_weights_each_sample() -> None:
    x0, prediction, _ = triple()
    weight = torch.tensor([1.0, 2.0, 0.0, 4.0], dtype=torch.float64)
    per_sample = ((prediction - x0) ** 2).mean(dim=(1, 2, 3))
    torch.testing.assert_close(denoising_loss(prediction, x0, weight), (weight * per_sample).mean())


def test_denoising_loss_gives_its_target_no_gradient() -> None:
    x0, _, _ = triple()
    prediction = torch.zeros_like(x0).requires_grad_()
    denoising_loss(prediction, x0, torch.ones(B)).backward()
    assert x0.grad is None and prediction.grad is not None


def test_huber_regression_is_linear_far_from_the_target() -> None:
    """The loss is 0.5 d^2 if |d| <= 0.1, and 0.1 (|d| - 0.05) beyond."""
    x, target = torch.tensor([[0.05, 1.0]]), torch.zeros(1, 2)
    assert regression_loss(x, target, "huber").item() == pytest.approx((0.5 * 0.05**2 + 0.1 * 0.95) / 2)


def test_regression_loss_is_the_mean_squared_error() -> None:
    x, target, _ = triple()
    assert regression_loss(x, target).item() == pytest.approx(((x - target) ** 2).sum().item() / x.numel())
