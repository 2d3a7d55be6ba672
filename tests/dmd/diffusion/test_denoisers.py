"""Denoisers of all parametrisations give the same x0 as diffusers, and processes give the same noise levels."""

from types import SimpleNamespace

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    EDMEulerScheduler,
    FlowMatchEulerDiscreteScheduler,
)
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg
from torch import Tensor, nn

from dmd.diffusion.denoiser import Denoiser, Guided, as_denoiser, edm
from dmd.diffusion.process import append_dims, ddpm_process, edm_process, flow_process, process_of
from tests.helpers.networks import KINDS, ToyNet, denoiser_of, scheduler, toy_denoiser

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


T = torch.tensor([0, 1, 20, 500, 980, 998, 999])


class Constant(nn.Module):
    """A network that returns the same tensor for every input."""

    def __init__(self, out: Tensor) -> None:
        super().__init__()
        self.out = out

    def forward(self, x: Tensor, t: Tensor, **kwargs: Tensor) -> SimpleNamespace:
        return SimpleNamespace(sample=self.out)


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_that_returns_its_target_gives_the_exact_x0(kind: str) -> None:
    """In float64, the conversion to x0 inverts `target`, even at both ends of the schedule."""
    x0, eps = torch.randn(2, len(T), 1, 8, 8).double()
    denoiser = denoiser_of(kind)
    denoiser.net = Constant(denoiser.target(x0, eps, T))
    torch.testing.assert_close(denoiser(denoiser.process.add_noise(x0, eps, T), T), x0, rtol=0, atol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_the_error_of_float32_grows_only_by_the_amplification(kind: str) -> None:
    """The error against float64 is at most 1e-5 max(1, sigma / alpha)."""
    x0, eps = torch.randn(2, len(T), 1, 8, 8).double()
    exact = denoiser_of(kind)
    exact.net = Constant(exact.target(x0, eps, T))
    x_t = exact.process.add_noise(x0, eps, T)
    single = denoiser_of(kind, Constant(exact.net.out.float()))
    amplification = (exact.process.sigma(T) / exact.process.alpha(T)).nan_to_num(1.0, posinf=1.0).clamp_min(1.0)
    error = (single(x_t.float(), T) - x0).abs().flatten(1).max(dim=1).values
    assert (error <= 1e-5 * amplification).all()


def test_equal_predictions_in_all_parametrisations_give_equal_x0() -> None:
    """The network predicts one x0 as eps, v or x0 on a DDPM process, or as a velocity on the flow process."""
    process = process_of(scheduler(beta_schedule="linear"))
    x_t, x0 = torch.randn(2, len(T), 1, 8, 8).double()
    alpha, sigma = append_dims(process.alpha(T), 4), append_dims(process.sigma(T), 4)
    eps = (x_t - alpha * x0) / sigma
    for kind, out in (("epsilon", eps), ("v_prediction", alpha * eps - sigma * x0), ("sample", x0)):
        torch.testing.assert_close(denoiser_of(kind, Constant(out))(x_t, T), x0, rtol=0, atol=1e-8)
    s = append_dims(flow_process(2.0, 1000).sigma(T), 4)
    velocity = (x_t - x0) / s  # x_t = x0 + s (eps - x0)
    torch.testing.assert_close(denoiser_of("flow", Constant(velocity))(x_t, T), x0, rtol=0, atol=1e-8)


def test_loss_weights_are_those_of_the_reference_implementations() -> None:
    """SNR for eps, SNR + 1 for v, 1 for sample, 1 / sigma^2 for flow, 1 / sigma^2 + 1 / sigma_data^2 for EDM."""
    process = process_of(scheduler(beta_schedule="linear"))
    snr = (process.alpha(T) / process.sigma(T)) ** 2
    sigma, s = edm_process(0.002, 80, 7, 1000).sigma(T), flow_process(2.0, 1000).sigma(T)
    want = {"epsilon": snr, "v_prediction": snr + 1, "sample": torch.ones(7), "flow": 1 / s**2}
    want["edm"] = 1 / sigma**2 + 1 / 0.5**2
    for kind, weight in want.items():
        torch.testing.assert_close(denoiser_of(kind).loss_weight(T), weight.double(), rtol=1e-9, atol=0)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_the_grid_of_flow_matching_equals_diffusers(shift: float) -> None:
    """The grids are equal in reverse order, with a shift towards noise; the network's time input is 1000 sigma."""
    process, theirs = flow_process(shift, 1000), FlowMatchEulerDiscreteScheduler(shift=shift)
    torch.testing.assert_close(process.sigma(torch.arange(1000)).float(), theirs.sigmas.flip(0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(process.time(torch.arange(1000)), theirs.timesteps.flip(0), rtol=1e-5, atol=1e-3)


def test_edm_preconditioning_equals_the_paper_and_diffusers() -> None:
    denoiser, theirs = denoiser_of("edm"), EDMEulerScheduler()
    t = torch.tensor([0, 400, 999])
    sigma = denoiser.process.sigma(t)
    theirs.set_timesteps(1000)
    torch.testing.assert_close(sigma.float(), theirs.sigmas[:-1].flip(0)[t].float(), rtol=1e-5, atol=1e-6)
    x, out = torch.randn(3, 1, 8, 8), torch.randn(3, 1, 8, 8)
    for i in range(3):
        want = theirs.precondition_outputs(x[i], out[i], sigma[i].float())
        got = Denoiser(Constant(out[i : i + 1]), denoiser.process, denoiser.parametrisation)(
            x[i : i + 1], t[i : i + 1]
        )[0]
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(denoiser.process.time(t), (sigma.log() / 4).float())
    assert edm(0.5)(sigma, sigma)[2].tolist() == pytest.approx((1 / (sigma**2 + 0.25).sqrt()).tolist())


def test_zero_terminal_snr_is_exact_for_v_and_an_error_for_eps() -> None:
    """If alpha(T-1) = 0, then x0 = -v at T-1, but eps does not determine x0."""
    config = {"beta_schedule": "scaled_linear", "rescale_betas_zero_snr": True}
    v = as_denoiser(ToyNet(), DDPMScheduler(1000, prediction_type="v_prediction", **config))
    z, last = torch.randn(2, 1, 8, 8), torch.tensor([999, 999])
    torch.testing.assert_close(v(z, last), -v.predict(z, last, None), rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="cannot give x0 at alpha = 0"):
        as_denoiser(ToyNet(), DDPMScheduler(1000, prediction_type="epsilon", **config))


def test_the_prior_is_noise_at_the_scale_of_the_process() -> None:
    z, t = torch.randn(1, 1, 8, 8), torch.tensor([999])
    assert torch.equal(ddpm_process(scheduler().alphas_cumprod).prior(z, t), z)
    torch.testing.assert_close(edm_process(0.002, 80, 7, 1000).prior(z, t), 80 * z)
    assert torch.equal(flow_process(3.0, 1000).prior(z, t), z)
    assert torch.equal(flow_process(3.0, 1000).prior(z, t // 2), z)  # as the stock pipelines, which do not scale it


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "edm"])
def test_guidance_commutes_with_the_conversion_to_x0(kind: str) -> None:
    """Guidance u + s (c - u) of x0 equals that of the network's output; scale 1 is the conditional prediction."""
    inner = denoiser_of(kind)
    x_t, t, y = torch.randn(3, 1, 8, 8).double(), torch.tensor([5, 400, 990]), torch.tensor([1, 2, 3])
    u, c = inner(x_t, t, torch.full_like(y, 10)), inner(x_t, t, y)
    torch.testing.assert_close(Guided(inner, 2.5, 10)(x_t, t, y), u + 2.5 * (c - u), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(Guided(inner, 1.0, 10)(x_t, t, y), c, rtol=1e-9, atol=1e-9)
    with pytest.raises(ValueError, match="needs a condition"):
        Guided(inner, 2.0, 10)(x_t, t)


def test_rescaled_guidance_equals_diffusers_and_keeps_the_deviation() -> None:
    """The share 0 is guidance itself; the share 1 has the standard deviation of the conditional prediction."""
    inner = denoiser_of("v_prediction")
    x_t, t, y = torch.randn(3, 1, 8, 8).double(), torch.tensor([5, 400, 990]), torch.tensor([1, 2, 3])
    guided, c = Guided(inner, 2.5, 10).predict(x_t, t, y), inner.predict(x_t, t, y)
    for share in (0.0, 0.3, 1.0):
        ours = Guided(inner, 2.5, 10, share=share).predict(x_t, t, y)
        torch.testing.assert_close(ours, rescale_noise_cfg(guided, c, share), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(ours.std((1, 2, 3)), c.std((1, 2, 3)), rtol=1e-9, atol=0)
    below = Guided(inner, 2.5, 10, (0.5, 1.0), share=1.0).predict(x_t, t, y)
    assert torch.equal(below[:2], c[:2]) and torch.equal(below[2], ours[2])


def test_a_schedule_that_depends_on_the_image_size_is_an_error() -> None:
    with pytest.raises(ValueError, match="use_dynamic_shifting"):
        process_of(FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True))


@pytest.mark.parametrize("kind", KINDS)
def test_the_weighted_x0_error_equals_the_networks_training_loss(kind: str) -> None:
    """loss_weight(t) |x0 - x0_hat|^2 = |target - output|^2 at every t, so the critic minimises the teacher's loss."""
    denoiser = denoiser_of(kind)
    t = torch.arange(0, 1000, 37)
    x0, eps = torch.randn(2, len(t), 1, 8, 8).double()
    x_t = denoiser.process.add_noise(x0, eps, t)
    training_loss = (denoiser.predict(x_t, t, None) - denoiser.target(x0, eps, t)) ** 2
    weighted = append_dims(denoiser.loss_weight(t), 4) * (denoiser(x_t, t) - x0) ** 2
    torch.testing.assert_close(weighted, training_loss, rtol=1e-7, atol=1e-10)


def test_a_half_precision_network_is_converted_in_float32() -> None:
    """bfloat16 has three digits, and sigma / alpha amplifies the error up to 157 times on the linear schedule."""
    torch.manual_seed(0)
    denoiser = as_denoiser(ToyNet().bfloat16(), scheduler("epsilon", "linear"))
    x_t, t = torch.randn(2, 1, 8, 8).bfloat16(), torch.tensor([999, 999])
    x0 = denoiser(x_t, t)
    assert x0.dtype == torch.float32
    exact = (
        x_t.double() - denoiser.process.sigma(t)[0] * denoiser.predict(x_t, t, None).double()
    ) / denoiser.process.alpha(t)[0]
    torch.testing.assert_close(x0.double(), exact, rtol=1e-4, atol=1e-3)


def test_an_unknown_prediction_type_is_an_error_that_names_it() -> None:
    with pytest.raises(ValueError, match="'eps' is not supported; known: epsilon, v_prediction, sample"):
        as_denoiser(ToyNet(), scheduler("eps"))


def test_a_copy_is_independent() -> None:
    first = toy_denoiser().requires_grad_(False)
    second = first.copy()
    assert all(p.requires_grad for p in second.parameters())
    with torch.no_grad():
        next(second.parameters()).add_(1)
    assert not torch.equal(next(first.parameters()), next(second.parameters()))
