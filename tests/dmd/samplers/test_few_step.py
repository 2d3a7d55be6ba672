"""The noise levels of a flow's generator, and what happens between its steps."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from dmd.config import MethodConfig, load_params
from dmd.diffusion.denoiser import Denoiser, as_denoiser
from dmd.diffusion.process import flow_process, time_shift
from dmd.distillation.setup import times_of_levels
from dmd.samplers.ddim import trajectory
from dmd.samplers.few_step import generate, level_times
from tests.helpers.networks import ToyNet, toy_denoiser
from tests.helpers.projects import ROOT

SIGMAS = torch.linspace(0, 1, 101, dtype=torch.float64)


def flow(shift: float = 1.0) -> Denoiser:
    """A toy network on a flow of 1,000 levels."""
    torch.manual_seed(0)
    return as_denoiser(ToyNet(), FlowMatchEulerDiscreteScheduler(shift=shift))


def levels(steps: int = 4, **changes: Any) -> MethodConfig:
    """The method of params.yaml with these steps and levels."""
    keys = {"method.steps": steps} | {f"method.levels.{key}": value for key, value in changes.items()}
    return load_params(ROOT / "params.yaml", keys).method


def sigmas(teachers: float, steps: int = 4, **changes: Any) -> list[float]:
    """Noise levels of the generator's steps, for a teacher with this shift."""
    process = flow_process(teachers, 1000)
    return process.sigma_grid[list(times_of_levels(levels(steps, **changes), process))].tolist()


def test_the_time_shift_adds_its_logarithm_to_the_logit() -> None:
    inner = SIGMAS[1:-1]
    torch.testing.assert_close(time_shift(inner, 3.0).logit(), inner.logit() + math.log(3), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "got", "expected"),
    [
        ("1 / shift is the inverse", lambda s: time_shift(time_shift(s, 5.0), 1 / 5), lambda s: s),
        ("shifts compose", lambda s: time_shift(time_shift(s, 2.0), 3.0), lambda s: time_shift(s, 6.0)),
        (
            "exp(mu) is diffusers' exponential form",
            lambda s: time_shift(s, math.exp(0.7)),
            lambda s: exponential(0.7, s),
        ),
    ],
)
def test_identities_of_the_time_shift(
    name: str, got: Callable[[Tensor], Tensor], expected: Callable[[Tensor], Tensor]
) -> None:
    torch.testing.assert_close(got(SIGMAS), expected(SIGMAS), rtol=1e-12, atol=1e-12)
    assert time_shift(SIGMAS[[0, -1]], 3.0).tolist() == [0, 1]


def exponential(mu: float, s: Tensor) -> Tensor:
    """The dynamic shift of FlowMatchEulerDiscreteScheduler, whose limits at 0 and 1 are 0 and 1."""
    return math.exp(mu) / (math.exp(mu) + (1 / s - 1))


# Step lists of published students: keys of method.levels, and resulting levels.
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"before_shift": [1, 0.75, 0.5, 0.25], "shift": 5.0}, [1, 0.9375, 0.8333, 0.625]),  # LightX2V, Wan
        ({"after_shift": [0.999, 0.937, 0.833, 0.624]}, [0.999, 0.937, 0.833, 0.624]),  # FastGen, Wan
        ({"after_shift": [0.999, 0.833]}, [0.999, 0.833]),  # FastGen, Wan in two steps
        ({"shift": 3.0}, [1, 0.9, 0.75, 0.5]),  # Qwen-Image-Lightning
        ({"shift": 12.0}, [1, 36 / 37, 12 / 13, 0.8]),  # PDMD
        ({"shift": 3.0}, [1, 21 / 22, 0.9, 5 / 6, 0.75, 9 / 14, 0.5, 0.3]),  # Z-Image-Turbo
    ],
)
@pytest.mark.parametrize("teachers_shift", [1.0, 3.0])
def test_published_step_lists_are_reproduced_by_params(
    changes: dict[str, Any], expected: list[float], teachers_shift: float
) -> None:
    assert sigmas(teachers_shift, len(expected), **changes) == pytest.approx(expected, abs=2e-3)


def test_a_list_before_the_teachers_shift_is_exact() -> None:
    assert sigmas(3.0, before_shift=[1, 0.75, 0.5, 0.25]) == pytest.approx([1, 0.9, 0.75, 0.5], abs=1e-12)


@pytest.mark.parametrize(("listed", "expected"), [([1, 0.75, 0.5, 0.25], [999, 749, 499, 249]), ([0.4], [399])])
def test_a_list_before_the_shift_is_that_of_shares_of_t_for_any_process(
    listed: list[float], expected: list[int]
) -> None:
    """DMD2's lists for SDXL in four steps and in one."""
    assert times_of_levels(levels(len(listed), before_shift=listed), toy_denoiser().process) == tuple(expected)


def test_levels_of_a_process_that_is_no_flow_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"method.levels: noise levels can be set for a flow only"):
        level_times(toy_denoiser().process, [1.0, 0.5])
    with pytest.raises(ValueError, match=r"method.levels: two of \[0.5, 0.4999\] are one of the teacher's levels"):
        level_times(flow_process(1.0, 1000), [0.5, 0.4999])
    with pytest.raises(ValueError, match=r"method.levels: two of \[0.5, 0.4999\] are one of the teacher's levels"):
        times_of_levels(levels(2, before_shift=[0.5, 0.4999]), toy_denoiser().process)


def test_an_ode_step_is_re_noising_with_the_noise_that_the_network_predicts() -> None:
    """For a flow, the predicted noise is x_t + (1 - sigma) v, and the step x_t + (sigma' - sigma) v."""
    net, z, y = flow(3.0), torch.randn(2, 1, 8, 8), torch.arange(2)
    first, second = torch.tensor([999, 999]), torch.tensor([499, 499])
    x_t, (before, after) = net.process.prior(z, first), (net.process.sigma(t)[0].float() for t in (first, second))
    v = net.predict(x_t, first, y)
    following = x_t + (after - before) * v
    noise = x_t + (1 - before) * v
    torch.testing.assert_close(net.process.add_noise(net(x_t, first, y), noise, second), following)
    torch.testing.assert_close(generate(net, z, (999, 499), y, "ode"), net(following, second, y))


@pytest.mark.parametrize("net", [flow(3.0), toy_denoiser()])
def test_a_generator_that_follows_the_ode_is_ddim_and_its_last_step_returns_x0(net: Denoiser) -> None:
    z, y, times = torch.randn(3, 1, 8, 8), torch.arange(3), (999, 749, 499, 249)
    x = net.process.prior(z, torch.full((3,), 999))
    torch.testing.assert_close(generate(net, z, times, y, "ode"), trajectory(net, x, times, y))
    assert not torch.allclose(
        generate(net, z[:, None].expand(-1, 4, -1, -1, -1), times, y), trajectory(net, x, times, y)
    )
