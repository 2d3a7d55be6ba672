"""DDIM and Heun's method agree with diffusers' solvers, with the published algorithms and with exact solutions."""

from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
)
from torch import Tensor

from dmd.diffusion.denoiser import Denoiser
from dmd.diffusion.process import append_dims, ddpm_process, flow_process
from dmd.samplers.ddim import ddim, ode_times
from dmd.samplers.heun import heun
from tests.helpers.networks import ToyNet, denoiser_of, scheduler


def ddim_states(denoiser: Denoiser, z: Tensor, steps: int) -> list[Tensor]:
    """The inputs x_t of the network along a DDIM trajectory, and its end."""
    states: list[Tensor] = []

    class Spy(Denoiser):
        def forward(self, x_t: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
            states.append(x_t)
            return super().forward(x_t, t, cond)

    states.append(ddim(Spy(denoiser.net, denoiser.process, denoiser.parametrisation), z, steps))
    return states


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("steps", [1, 10, 50])  # divisors of T: diffusers' DDIM takes steps of T // steps
def test_ddim_equals_diffusers_step_by_step(kind: str, steps: int) -> None:
    denoiser = denoiser_of(kind)
    theirs: Any = DDIMScheduler.from_config(
        scheduler(kind, "linear").config, timestep_spacing="trailing", clip_sample=False, set_alpha_to_one=True
    )
    theirs.set_timesteps(steps)
    assert ode_times(1000, steps) == tuple(theirs.timesteps.tolist())
    x = z = torch.randn(2, 1, 8, 8).double()
    ours = ddim_states(denoiser, z, steps)
    for t, x_t in zip(theirs.timesteps, ours, strict=False):
        torch.testing.assert_close(x_t, x, rtol=1e-4, atol=1e-4)  # diffusers keeps alpha and sigma in float32
        x = theirs.step(denoiser.predict(x, t.expand(2), None), t, x, eta=0.0).prev_sample
    torch.testing.assert_close(ours[-1], x, rtol=1e-4, atol=1e-4)


def test_more_steps_than_the_schedule_has_are_an_error() -> None:
    """The last step would reach index -1, which is the highest noise level."""
    assert ode_times(4, 4) == (3, 2, 1, 0)
    with pytest.raises(ValueError, match="5 steps do not fit on a schedule of 4; use at most 4"):
        ode_times(4, 5)


@pytest.mark.parametrize("kind", ["flow", "edm"])
def test_ddim_equals_diffusers_euler_step_by_step(kind: str) -> None:
    """Compare with Euler for flow matching and for EDM, on our noise levels; the last step goes to sigma 0."""
    denoiser, steps = denoiser_of(kind), 10
    t = torch.tensor(ode_times(1000, steps))
    sigmas = torch.cat([denoiser.process.sigma(t), torch.zeros(1).double()])
    theirs: Any = FlowMatchEulerDiscreteScheduler(shift=2.0) if kind == "flow" else EDMEulerScheduler()
    theirs.set_timesteps(steps)
    theirs.sigmas, theirs.timesteps = sigmas, denoiser.process.time(t).double()
    z = torch.randn(2, 1, 8, 8).double()
    ours = ddim_states(denoiser, z, steps)
    x = z if kind == "flow" else 80.0 * z
    for k in range(steps):
        torch.testing.assert_close(ours[k], x, rtol=1e-6, atol=1e-6)
        time = theirs.timesteps[k]
        scaled = x if kind == "flow" else theirs.scale_model_input(x, time)
        out = denoiser.net(scaled, time.expand(2)).sample
        x = theirs.step(out, time, x).prev_sample
    torch.testing.assert_close(ours[-1], x, rtol=1e-6, atol=1e-6)


def test_ddim_equals_the_euler_scheduler_of_a_ddpm() -> None:
    """In EulerDiscreteScheduler's variables x / alpha and sigma / alpha, DDIM is Euler's method."""
    denoiser, steps = denoiser_of("epsilon"), 10
    euler: Any = EulerDiscreteScheduler.from_config(scheduler("epsilon", "linear").config, timestep_spacing="trailing")
    euler.set_timesteps(steps)
    z = torch.randn(1, 1, 8, 8).double()
    ours = ddim_states(denoiser, z, steps)
    x = z / denoiser.process.alpha(torch.tensor([999]))
    for t in euler.timesteps:
        scaled = euler.scale_model_input(x, t)
        x = euler.step(denoiser.predict(scaled, t.long().expand(1), None), t, x).prev_sample
    torch.testing.assert_close(ours[-1], x, rtol=1e-3, atol=1e-3)


def test_heun_equals_the_algorithm_of_karras_for_edm() -> None:
    """Algorithm 1 of Karras et al. 2022 on our noise levels: d = (x - x0) / sigma, averaged over a step."""
    denoiser, steps = denoiser_of("edm"), 6
    times = ode_times(1000, steps)
    sigma = [denoiser.process.sigma(torch.tensor([t])).item() for t in times] + [0.0]
    z = torch.randn(1, 1, 8, 8).double()
    x = sigma[0] * z
    for i, t in enumerate(times):
        d = (x - denoiser(x, torch.tensor([t]))) / sigma[i]
        euler = x + (sigma[i + 1] - sigma[i]) * d
        if sigma[i + 1] > 0:
            d = (d + (euler - denoiser(euler, torch.tensor([times[i + 1]]))) / sigma[i + 1]) / 2
        x = x + (sigma[i + 1] - sigma[i]) * d
    torch.testing.assert_close(heun(denoiser, z, steps), x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("process", ["vp", "flow"])
def test_heun_is_of_second_order(process: str) -> None:
    """On data N(m, s^2), doubling the steps divides the error of Heun by four and that of DDIM by two."""
    p = ddpm_process(scheduler(beta_schedule="linear").alphas_cumprod) if process == "vp" else flow_process(1.0, 1000)
    m, s = 0.4, 0.5

    class Exact(Denoiser):
        def forward(self, x_t: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
            alpha, sigma = (append_dims(v(t), x_t.ndim) for v in (self.process.alpha, self.process.sigma))
            return m + alpha * s**2 / (alpha**2 * s**2 + sigma**2) * (x_t - alpha * m)

    exact = Exact(ToyNet(), p, denoiser_of("sample").parametrisation)
    z = torch.linspace(-2, 2, 64).double().reshape(64, 1, 1, 1)
    finest = ddim(exact, z, 1000)

    def error(solve: Any, steps: int) -> float:
        return (solve(exact, z, steps) - finest).abs().mean().item()

    assert error(heun, 20) < error(heun, 10) / 3 and error(heun, 20) < error(ddim, 39)
    assert error(ddim, 20) > error(ddim, 10) / 3


@pytest.mark.parametrize("kind", ["v_prediction", "flow", "edm"])
@pytest.mark.parametrize("steps", [1, 2, 10])
def test_ddim_ends_at_a_point_mass(kind: str, steps: int) -> None:
    """If the data are a single image, x0 is that image for every x_t, and the trajectory ends there."""
    point = torch.randn(1, 1, 8, 8)

    class Point(Denoiser):
        def forward(self, x_t: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
            return point.expand_as(x_t)

    inner = denoiser_of(kind)
    x = ddim(Point(inner.net, inner.process, inner.parametrisation), torch.randn(3, 1, 8, 8), steps)
    torch.testing.assert_close(x, point.expand(3, -1, -1, -1), rtol=0, atol=1e-4)
