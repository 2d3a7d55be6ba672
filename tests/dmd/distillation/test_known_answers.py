"""Distillation with exact scores reaches a Gaussian, and both modes of a mixture."""

import pytest
import torch
from torch import Tensor, nn

from dmd.config import Params
from dmd.diffusion.denoiser import Denoiser
from dmd.diffusion.process import append_dims
from dmd.distillation.methods import METHODS
from dmd.distillation.networks import Networks
from dmd.distillation.state import TrainState
from dmd.distillation.trainer import train
from dmd.teachers.pairs import Pairs
from tests.helpers.networks import toy_denoiser
from tests.helpers.sources import reals
from tests.helpers.training import alone

PROCESS = toy_denoiser().process
V = toy_denoiser().parametrisation


class BareDenoiser(Denoiser):
    """Base of denoisers that wrap no network; subclasses compute x0."""

    def __init__(self) -> None:
        super().__init__(nn.Identity(), PROCESS, V)

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return append_dims(PROCESS.alpha(t), 4).float(), append_dims(PROCESS.sigma(t), 4).float()


class GaussianDenoiser(BareDenoiser):
    """E[x0|x_t] = mean + alpha S (alpha^2 S + sigma^2)^-1 (x_t - alpha mean), S = L L^T, for images of two pixels."""

    def __init__(self, mean: list[float], root: list[list[float]]) -> None:
        super().__init__()
        self.mean, self.root = nn.Parameter(torch.tensor(mean)), nn.Parameter(torch.tensor(root))

    def forward(self, x_t: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        alpha, sigma = (level.reshape(-1, 1, 1) for level in self.levels(t))
        covariance = self.root @ self.root.T
        inner = alpha**2 * covariance + sigma**2 * torch.eye(2)
        away = x_t.reshape(-1, 2, 1) - alpha * self.mean[:, None]
        return (self.mean[:, None] + alpha * covariance @ torch.linalg.solve(inner, away)).reshape(x_t.shape)


class LinearGenerator(GaussianDenoiser):
    """x = mean + L z."""

    def forward(self, x_t: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        return (self.mean[:, None] + self.root @ x_t.reshape(-1, 2, 1)).reshape(x_t.shape)


def learn(
    params: Params, nets: Networks, pairs: Pairs, turns: int, lr: float, schedule: str = "constant", **method: object
) -> TrainState:
    warm = params.train.warm_start.model_copy(update={"turns": 0, "critic_turns": 0})
    changes = {
        "generator_turns": turns,
        "warm_start": warm,
        "warmup_turns": 0,
        "weight_decay": 0.0,
        "ema_half_lives": [900],
        "lr_schedule": schedule,
    }
    cfg = params.train.model_copy(update={**changes, "lr_generator": lr, "lr_critic": 2 * lr})
    method_cfg = params.method.model_copy(update={"regression_weight": 0.0, **method})
    state = TrainState(nets, cfg)
    shape = (1, 1, pairs.z.shape[-1])
    list(train(state, METHODS["dmd"](method_cfg, 1000, pairs, reals()), cfg, shape, None, alone()))
    return state


def test_the_generator_reaches_the_mean_and_the_covariance_of_a_gaussian(params: Params) -> None:
    """The generator starts from another mean, standard deviation and correlation."""
    target = GaussianDenoiser([0.5, -0.3], [[0.5, 0.0], [0.3, 0.2]]).requires_grad_(False)
    start = ([-0.5, 0.5], [[0.8, 0.0], [0.0, 0.8]])
    nets = Networks(target, LinearGenerator(*start), GaussianDenoiser(*start))
    empty = Pairs(torch.empty(0, 1, 1, 2), torch.empty(0, 1, 1, 2), None)
    ema = learn(params, nets, empty, 250, 1e-2, critic_turns=3).averages[900]
    torch.testing.assert_close(ema.mean, target.mean, rtol=0, atol=0.05)
    torch.testing.assert_close(ema.root @ ema.root.T, target.root @ target.root.T, rtol=0, atol=0.05)


MODE, WIDTH = 2.0, 0.3


class Mixture(BareDenoiser):
    """The exact denoiser of the mixture of N(-2, 0.3^2) and N(2, 0.3^2), for images of one pixel."""

    def forward(self, x_t: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        alpha, sigma = self.levels(t)
        variance = alpha**2 * WIDTH**2 + sigma**2
        means = [mode + alpha * WIDTH**2 * (x_t - alpha * mode) / variance for mode in (-MODE, MODE)]
        weight = torch.sigmoid(2 * alpha * MODE * x_t / variance)  # posterior probability of the mode at +2
        return (1 - weight) * means[0] + weight * means[1]


class Small(BareDenoiser):
    """A trainable denoiser with v-prediction by a small network of x_t and t."""

    def __init__(self, bias: float, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.Sequential(nn.Linear(3, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 1))
        self.bias = bias

    def forward(self, x_t: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        alpha, sigma = self.levels(t)
        out = self.layers(torch.cat([x_t, alpha, sigma], dim=-1))
        return alpha * x_t - sigma * out + sigma * self.bias


def teachers_pairs(n: int = 512) -> Pairs:
    """Pairs of the teacher's ODE, which in one dimension maps noise below zero to the lower mode."""
    z = torch.randn(n, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    rank = z.flatten().argsort().argsort().double().add(0.5).div(n)
    lower = rank < 0.5
    within = torch.where(lower, 2 * rank, 2 * rank - 1)
    x = torch.where(lower, -MODE, MODE) + WIDTH * torch.distributions.Normal(0.0, 1.0).icdf(within.float())
    return Pairs(z, x.float().reshape(n, 1, 1, 1), None)


@pytest.mark.parametrize(("weight", "both_modes"), [(0.0, False), (1.0, True)])
def test_the_regression_term_keeps_both_modes(params: Params, weight: float, both_modes: bool) -> None:
    """A generator that starts on one mode stays there by reverse KL alone, and covers both with the teacher's pairs.

    t stays below 0.4 T: at higher noise levels the modes overlap, and the score difference alone reaches both.
    """
    nets = Networks(Mixture().requires_grad_(False), Small(MODE, 1), Small(MODE, 2))
    generator = learn(
        params, nets, teachers_pairs(), 400, 3e-3, "cosine", regression_weight=weight, critic_turns=3, t_max=0.4
    ).averages[900]
    with torch.no_grad():
        z = torch.randn(2000, 1, 1, 1, generator=torch.Generator().manual_seed(1))
        x = generator(z, torch.full((2000,), 999))
    share = (x < 0).double().mean().item()
    assert (0.35 < share < 0.65) == both_modes, share
    assert (x.abs() - MODE).abs().median().item() < 0.5  # most samples lie on the modes
