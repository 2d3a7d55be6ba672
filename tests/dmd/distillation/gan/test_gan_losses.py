"""Identities of the GAN losses and of the penalties on the discriminator's gradient."""

import math

import pytest
import torch
from torch import Tensor, nn

from dmd.distillation.gan.losses import (
    GAN_LOSSES,
    accuracy,
    finite_difference_penalty,
    gradient_penalty,
    logit_gap,
)

LN2 = math.log(2)
# Value at D = 0 for both, of the discriminator's and of the generator's loss.
AT_CHANCE = {"logistic": (2 * LN2, LN2), "hinge": (2.0, 0.0), "relativistic": (LN2, LN2)}


def logits(seed: int) -> Tensor:
    return torch.randn(64, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("name", GAN_LOSSES)
def test_the_losses_of_a_blind_discriminator(name: str) -> None:
    zero = torch.zeros(4, 3)
    values = [loss(zero, zero).item() for loss in GAN_LOSSES[name]]
    assert values == pytest.approx(AT_CHANCE[name])


@pytest.mark.parametrize("name", GAN_LOSSES)
def test_descent_separates_the_discriminators_logits_and_raises_the_generators(name: str) -> None:
    data, fake = logits(0).requires_grad_(), logits(1).requires_grad_()
    data_grad, fake_grad = torch.autograd.grad(GAN_LOSSES[name].discriminator(data, fake), [data, fake])
    assert (data_grad <= 0).all() and (fake_grad >= 0).all() and data_grad.abs().max() > 0 < fake_grad.abs().max()
    (grad,) = torch.autograd.grad(GAN_LOSSES[name].generator(data, fake), [fake])
    assert (grad < 0).all()


def test_the_relativistic_loss_depends_on_differences_alone() -> None:
    data, fake = logits(0), logits(1)
    loss = GAN_LOSSES["relativistic"]
    torch.testing.assert_close(loss.discriminator(data + 7, fake + 7), loss.discriminator(data, fake))
    torch.testing.assert_close(loss.generator(data, fake), loss.discriminator(fake, data))  # the margin changes sign


def test_the_logistic_loss_is_lowest_at_the_log_ratio() -> None:
    """With all data and a third of the generated images at one point, the best logit there is ln 3."""
    d = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimum = math.log(3)
    for _ in range(2000):
        at_point, elsewhere = d[None], torch.full((1,), -50.0, dtype=torch.float64)  # no data lie elsewhere
        fake = torch.cat([at_point, elsewhere, elsewhere])  # a third of the generated images lie at the point
        loss = GAN_LOSSES["logistic"].discriminator(at_point, fake)
        (grad,) = torch.autograd.grad(loss, d)
        d = (d - grad).detach().requires_grad_()
    assert d.item() == pytest.approx(optimum, abs=1e-6)


def score(x: Tensor, net: nn.Module) -> Tensor:
    return net(x).flatten(1).mean(dim=1)


def test_the_exact_penalty_is_the_squared_gradient() -> None:
    x = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    slope = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    torch.testing.assert_close(gradient_penalty(x @ slope, x), slope.square().sum())
    torch.testing.assert_close(gradient_penalty(x.square().sum(dim=1), x), 4 * x.square().sum(dim=1).mean())
    penalty = gradient_penalty((x.square() * slope).sum(dim=1), x)
    penalty.backward()
    torch.testing.assert_close(x.grad, 8 * x.detach() * slope**2 / len(x))  # a second backward pass reaches x


def test_finite_differences_estimate_the_exact_penalty() -> None:
    """Over many directions, the mean of the finite difference is the squared gradient of a smooth network."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 16), nn.SiLU(), nn.Linear(16, 1)).double()
    x = torch.randn(1, 6, dtype=torch.float64).requires_grad_()
    exact = gradient_penalty(score(x, net), x)
    many, nudge = x.detach().expand(100_000, -1), 1e-4
    noise = torch.randn(100_000, 6, dtype=torch.float64)
    estimate = finite_difference_penalty(score(many, net), score(many + nudge * noise, net), nudge)
    torch.testing.assert_close(estimate, exact.detach(), rtol=0.02, atol=0)


def test_accuracy_and_gap() -> None:
    data, fake = torch.tensor([[1.0, -1.0]]), torch.tensor([[-2.0, -2.0]])
    assert accuracy(data, fake) == 0.75 and logit_gap(data, fake) == 2
    assert accuracy(fake, fake) == 0.5 and logit_gap(fake, fake) == 0
