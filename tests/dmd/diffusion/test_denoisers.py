"""The contract: equal networks give equal x0, whatever they predict, and agree with diffusers' own arithmetic."""

from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
)
from torch import Tensor, nn

from dmd.diffusion.denoiser import Denoiser, Guided, as_denoiser, edm
from dmd.diffusion.process import append_dims, ddpm_process, edm_process, flow_process, process_of
from dmd.samplers.ddim import ddim, ode_times
from dmd.samplers.heun import heun
from tests.helpers.networks import ToyNet, scheduler, toy_denoiser

SCHEDULES = ["linear", "scaled_linear", "squaredcos_cap_v2"]


@pytest.mark.parametrize("beta_schedule", SCHEDULES)
def test_the_process_is_variance_preserving_and_equals_diffusers(beta_schedule: str) -> None:
    s = scheduler(beta_schedule=beta_schedule)
    process = process_of(s)
    t = torch.arange(1000)
    torch.testing.assert_close(
        process.alpha(t) ** 2 + process.sigma(t) ** 2, torch.ones(1000).double(), rtol=0, atol=1e-12
    )
    x0, eps = torch.randn(2, 1000, 1, 4, 4)
    torch.testing.assert_close(process.add_noise(x0, eps, t), s.add_noise(x0, eps, t), rtol=0, atol=1e-6)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("beta_schedule", SCHEDULES)
def test_x0_equals_diffusers_at_every_level(prediction_type: str, beta_schedule: str) -> None:
    torch.manual_seed(0)
    denoiser = as_denoiser(ToyNet().double(), scheduler(prediction_type, beta_schedule))
    ddim_scheduler = DDIMScheduler.from_config(scheduler(prediction_type, beta_schedule).config)
    ddim_scheduler.set_timesteps(1000)
    x_t, label = torch.randn(1, 1, 8, 8).double(), torch.tensor([3])
    for t in (0, 1, 20, 500, 980, 999):
        time = torch.tensor([t])
        step = ddim_scheduler.step(denoiser.predict(x_t, time, label), t, x_t, eta=0.0)
        torch.testing.assert_close(denoiser(x_t, time, label), step.pred_original_sample, rtol=1e-5, atol=1e-6)


class Fixed(nn.Module):
    """A network that returns what it was given."""

    def __init__(self, out: Tensor) -> None:
        super().__init__()
        self.out = out

    def forward(self, x: Tensor, t: Tensor, **kwargs: Tensor):
        return type("Out", (), {"sample": self.out})


KINDS = ["epsilon", "v_prediction", "sample", "flow", "edm"]


def denoiser_of(kind: str, net: nn.Module | None = None) -> Denoiser:
    if kind == "flow":
        made: Any = FlowMatchEulerDiscreteScheduler(shift=2.0)
    elif kind == "edm":
        made = EDMEulerScheduler()
    else:
        made = scheduler(kind, "linear")
    return as_denoiser(net or ToyNet().double(), made)


T = torch.tensor([0, 1, 20, 500, 980, 998, 999])


@pytest.mark.parametrize("kind", KINDS)
def test_a_perfect_network_gives_back_x0(kind: str) -> None:
    """target() and the conversion are inverse to one another in float64, at both ends of the schedule too."""
    x0, eps = torch.randn(2, len(T), 1, 8, 8).double()
    perfect = denoiser_of(kind)
    perfect.net = Fixed(perfect.target(x0, eps, T))
    torch.testing.assert_close(perfect(perfect.process.add_noise(x0, eps, T), T), x0, rtol=0, atol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_float32_is_exact_but_for_the_amplification(kind: str) -> None:
    """To 1e-5 x max(1, sigma / alpha), against the same in float64."""
    x0, eps = torch.randn(2, len(T), 1, 8, 8).double()
    exact = denoiser_of(kind)
    exact.net = Fixed(exact.target(x0, eps, T))
    x_t = exact.process.add_noise(x0, eps, T)
    single = denoiser_of(kind, Fixed(exact.net.out.float()))
    amplification = (exact.process.sigma(T) / exact.process.alpha(T)).nan_to_num(1.0, posinf=1.0).clamp_min(1.0)
    error = (single(x_t.float(), T) - x0).abs().flatten(1).max(dim=1).values
    assert (error <= 1e-5 * amplification).all()


def test_all_forms_of_one_prediction_agree() -> None:
    """The same x0_hat, written as eps, as v and as x0 on one process, and as velocity on its own."""
    process = process_of(scheduler(beta_schedule="linear"))
    x_t, x0 = torch.randn(2, len(T), 1, 8, 8).double()
    alpha, sigma = append_dims(process.alpha(T), 4), append_dims(process.sigma(T), 4)
    eps = (x_t - alpha * x0) / sigma
    for kind, out in (("epsilon", eps), ("v_prediction", alpha * eps - sigma * x0), ("sample", x0)):
        torch.testing.assert_close(denoiser_of(kind, Fixed(out))(x_t, T), x0, rtol=0, atol=1e-8)
    s = append_dims(flow_process(2.0, 1000).sigma(T), 4)
    velocity = (x_t - x0) / s  # x_t = x0 + s (eps - x0)
    torch.testing.assert_close(denoiser_of("flow", Fixed(velocity))(x_t, T), x0, rtol=0, atol=1e-8)


def test_the_critics_weights_are_the_references() -> None:
    """SNR for eps, SNR + 1 for v, 1 for sample, 1 / s^2 for flow, 1 / sigma^2 + 1 / sigma_data^2 for EDM."""
    process = process_of(scheduler(beta_schedule="linear"))
    snr = (process.alpha(T) / process.sigma(T)) ** 2
    sigma, s = edm_process(0.002, 80, 7, 1000).sigma(T), flow_process(2.0, 1000).sigma(T)
    want = {"epsilon": snr, "v_prediction": snr + 1, "sample": torch.ones(7), "flow": 1 / s**2}
    want["edm"] = 1 / sigma**2 + 1 / 0.5**2
    for kind, weight in want.items():
        torch.testing.assert_close(denoiser_of(kind).loss_weight(T), weight.double(), rtol=1e-9, atol=0)


def steps_of(denoiser: Denoiser, z: Tensor, steps: int) -> list[Tensor]:
    """The x_t at which our sampler asks the network, and the end."""
    seen: list[Tensor] = []

    class Spy(Denoiser):
        def forward(self, x_t: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
            seen.append(x_t)
            return super().forward(x_t, t, cond)

    seen.append(ddim(Spy(denoiser.net, denoiser.process, denoiser.parametrisation), z, steps))
    return seen


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("steps", [1, 10, 50])  # of others diffusers' DDIM takes T // steps for the way to the next
def test_the_sampler_is_diffusers_ddim_step_by_step(kind: str, steps: int) -> None:
    denoiser = denoiser_of(kind)
    theirs: Any = DDIMScheduler.from_config(
        scheduler(kind, "linear").config, timestep_spacing="trailing", clip_sample=False, set_alpha_to_one=True
    )
    theirs.set_timesteps(steps)
    assert ode_times(1000, steps) == tuple(theirs.timesteps.tolist())
    x = z = torch.randn(2, 1, 8, 8).double()
    ours = steps_of(denoiser, z, steps)
    for t, x_t in zip(theirs.timesteps, ours, strict=False):
        torch.testing.assert_close(x_t, x, rtol=1e-4, atol=1e-4)  # theirs has alpha and sigma in float32
        x = theirs.step(denoiser.predict(x, t.expand(2), None), t, x, eta=0.0).prev_sample
    torch.testing.assert_close(ours[-1], x, rtol=1e-4, atol=1e-4)


def test_a_trajectory_has_no_more_steps_than_its_schedule() -> None:
    """More would come to index -1, the noisiest, for an image without noise."""
    assert ode_times(4, 4) == (3, 2, 1, 0)
    with pytest.raises(ValueError, match="5 steps on a schedule of 4"):
        ode_times(4, 5)


@pytest.mark.parametrize("kind", ["flow", "edm"])
def test_the_sampler_is_diffusers_euler_step_by_step(kind: str) -> None:
    """Flow-match Euler and EDM Euler, on the sigmas of our grid; the last step goes to sigma 0."""
    denoiser, steps = denoiser_of(kind), 10
    t = torch.tensor(ode_times(1000, steps))
    sigmas = torch.cat([denoiser.process.sigma(t), torch.zeros(1).double()])
    theirs: Any = FlowMatchEulerDiscreteScheduler(shift=2.0) if kind == "flow" else EDMEulerScheduler()
    theirs.set_timesteps(steps)
    theirs.sigmas, theirs.timesteps = sigmas, denoiser.process.time(t).double()
    z = torch.randn(2, 1, 8, 8).double()
    ours = steps_of(denoiser, z, steps)
    x = z if kind == "flow" else 80.0 * z
    for k in range(steps):
        torch.testing.assert_close(ours[k], x, rtol=1e-6, atol=1e-6)
        time = theirs.timesteps[k]
        scaled = x if kind == "flow" else theirs.scale_model_input(x, time)
        out = denoiser.net(scaled, time.expand(2)).sample
        x = theirs.step(out, time, x).prev_sample
    torch.testing.assert_close(ours[-1], x, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_the_grid_of_flow_matching_is_diffusers_own(shift: float) -> None:
    """Shifted towards noise, ascending here and descending there; the network is told 1000 s."""
    process, theirs = flow_process(shift, 1000), FlowMatchEulerDiscreteScheduler(shift=shift)
    torch.testing.assert_close(process.sigma(torch.arange(1000)).float(), theirs.sigmas.flip(0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(process.time(torch.arange(1000)), theirs.timesteps.flip(0), rtol=1e-5, atol=1e-3)


def test_edm_is_the_papers_preconditioning_and_diffusers_own() -> None:
    denoiser, theirs = denoiser_of("edm"), EDMEulerScheduler()
    t = torch.tensor([0, 400, 999])
    sigma = denoiser.process.sigma(t)
    theirs.set_timesteps(1000)
    torch.testing.assert_close(sigma.float(), theirs.sigmas[:-1].flip(0)[t].float(), rtol=1e-5, atol=1e-6)
    x, out = torch.randn(3, 1, 8, 8), torch.randn(3, 1, 8, 8)
    for i in range(3):
        want = theirs.precondition_outputs(x[i], out[i], sigma[i].float())
        got = Denoiser(Fixed(out[i : i + 1]), denoiser.process, denoiser.parametrisation)(x[i : i + 1], t[i : i + 1])[0]
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(denoiser.process.time(t), (sigma.log() / 4).float())
    assert edm(0.5)(sigma, sigma)[2].tolist() == pytest.approx((1 / (sigma**2 + 0.25).sqrt()).tolist())


def test_the_euler_scheduler_of_a_ddpm_is_the_same_trajectory() -> None:
    """In the variables of EulerDiscreteScheduler, x / alpha and sigma / alpha, DDIM is Euler's method."""
    denoiser, steps = denoiser_of("epsilon"), 10
    euler: Any = EulerDiscreteScheduler.from_config(scheduler("epsilon", "linear").config, timestep_spacing="trailing")
    euler.set_timesteps(steps)
    z = torch.randn(1, 1, 8, 8).double()
    ours = steps_of(denoiser, z, steps)
    x = z / denoiser.process.alpha(torch.tensor([999]))
    for t in euler.timesteps:
        scaled = euler.scale_model_input(x, t)
        x = euler.step(denoiser.predict(scaled, t.long().expand(1), None), t, x).prev_sample
    torch.testing.assert_close(ours[-1], x, rtol=1e-3, atol=1e-3)


def test_heun_is_the_algorithm_of_karras_for_edm() -> None:
    """Algorithm 1 written out, on the sigmas of our grid: d = (x - x0) / sigma, corrected by its mean with the next."""
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
    """Data N(m, s^2) have an exact x0 and an exact end: twice the steps leave a fourth of the error, DDIM's a half."""
    made = (
        ddpm_process(scheduler(beta_schedule="linear").alphas_cumprod) if process == "vp" else flow_process(1.0, 1000)
    )
    m, s = 0.4, 0.5

    class Exact(Denoiser):
        def forward(self, x_t: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
            alpha, sigma = (append_dims(v(t), x_t.ndim) for v in (self.process.alpha, self.process.sigma))
            return m + alpha * s**2 / (alpha**2 * s**2 + sigma**2) * (x_t - alpha * m)

    exact = Exact(ToyNet(), made, denoiser_of("sample").parametrisation)
    z = torch.linspace(-2, 2, 64).double().reshape(64, 1, 1, 1)
    finest = ddim(exact, z, 1000)

    def error(solve: Any, steps: int) -> float:
        return (solve(exact, z, steps) - finest).abs().mean().item()

    assert error(heun, 20) < error(heun, 10) / 3 and error(heun, 20) < error(ddim, 39)
    assert error(ddim, 20) > error(ddim, 10) / 3


def test_zero_terminal_snr_is_exact_for_v_and_refused_for_eps() -> None:
    """alpha(T-1) = 0: x0 = -v; a network that predicts the noise says nothing of the image there."""
    config = {"beta_schedule": "scaled_linear", "rescale_betas_zero_snr": True}
    v = as_denoiser(ToyNet(), DDPMScheduler(1000, prediction_type="v_prediction", **config))
    z, last = torch.randn(2, 1, 8, 8), torch.tensor([999, 999])
    torch.testing.assert_close(v(z, last), -v.predict(z, last, None), rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="ends in pure noise"):
        as_denoiser(ToyNet(), DDPMScheduler(1000, prediction_type="epsilon", **config))


def test_the_prior_is_noise_of_the_processs_own_scale() -> None:
    z, t = torch.randn(1, 1, 8, 8), torch.tensor([999])
    assert torch.equal(ddpm_process(scheduler().alphas_cumprod).prior(z, t), z)
    torch.testing.assert_close(edm_process(0.002, 80, 7, 1000).prior(z, t), 80 * z)
    torch.testing.assert_close(flow_process(3.0, 1000).prior(z, t), z)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "edm"])
def test_guidance_commutes_with_the_conversion_to_x0(kind: str) -> None:
    """Guiding the output is guiding x0: u + s (c - u); scale 1 is the conditional prediction."""
    inner = denoiser_of(kind)
    x_t, t, y = torch.randn(3, 1, 8, 8).double(), torch.tensor([5, 400, 990]), torch.tensor([1, 2, 3])
    u, c = inner(x_t, t, torch.full_like(y, 10)), inner(x_t, t, y)
    torch.testing.assert_close(Guided(inner, 2.5, 10)(x_t, t, y), u + 2.5 * (c - u), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(Guided(inner, 1.0, 10)(x_t, t, y), c, rtol=1e-9, atol=1e-9)
    with pytest.raises(ValueError, match="needs a condition"):
        Guided(inner, 2.0, 10)(x_t, t)


def test_a_schedule_that_depends_on_the_image_size_is_refused() -> None:
    with pytest.raises(ValueError, match="use_dynamic_shifting"):
        process_of(FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True))


@pytest.mark.parametrize("kind", KINDS)
def test_the_weighted_x0_error_is_the_networks_own_loss(kind: str) -> None:
    """loss_weight(t) |x0 - x0_hat|^2 = |target - output|^2, at every t: the critic minimises the teacher's loss."""
    denoiser = denoiser_of(kind)
    t = torch.arange(0, 1000, 37)
    x0, eps = torch.randn(2, len(t), 1, 8, 8).double()
    x_t = denoiser.process.add_noise(x0, eps, t)
    own = (denoiser.predict(x_t, t, None) - denoiser.target(x0, eps, t)) ** 2
    weighted = append_dims(denoiser.loss_weight(t), 4) * (denoiser(x_t, t) - x0) ** 2
    torch.testing.assert_close(weighted, own, rtol=1e-7, atol=1e-10)


def test_a_half_precision_network_is_converted_in_float32() -> None:
    """sigma / alpha is 157 at the end of the linear schedule: bfloat16 has three digits."""
    torch.manual_seed(0)
    denoiser = as_denoiser(ToyNet().bfloat16(), scheduler("epsilon", "linear"))
    x_t, t = torch.randn(2, 1, 8, 8).bfloat16(), torch.tensor([999, 999])
    x0 = denoiser(x_t, t)
    assert x0.dtype == torch.float32
    exact = (
        x_t.double() - denoiser.process.sigma(t)[0] * denoiser.predict(x_t, t, None).double()
    ) / denoiser.process.alpha(t)[0]
    torch.testing.assert_close(x0.double(), exact, rtol=1e-4, atol=1e-3)


def test_an_unknown_prediction_type_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="'eps' is not supported; known: epsilon, v_prediction, sample"):
        as_denoiser(ToyNet(), scheduler("eps"))


def test_a_copy_is_independent() -> None:
    first = toy_denoiser().requires_grad_(False)
    second = first.copy()
    assert all(p.requires_grad for p in second.parameters())
    with torch.no_grad():
        next(second.parameters()).add_(1)
    assert not torch.equal(next(first.parameters()), next(second.parameters()))


@pytest.mark.parametrize("kind", ["v_prediction", "flow", "edm"])
@pytest.mark.parametrize("steps", [1, 2, 10])
def test_ddim_of_a_point_mass_arrives_at_it(kind: str, steps: int) -> None:
    """If all data are one image, x0 is that image from everywhere, and the trajectory must end there."""
    point = torch.randn(1, 1, 8, 8)

    class Point(Denoiser):
        def forward(self, x_t: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
            return point.expand_as(x_t)

    inner = denoiser_of(kind)
    x = ddim(Point(inner.net, inner.process, inner.parametrisation), torch.randn(3, 1, 8, 8), steps)
    torch.testing.assert_close(x, point.expand(3, -1, -1, -1), rtol=0, atol=1e-4)
