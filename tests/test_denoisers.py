"""The contract: equal networks give equal x0, whatever they predict, and agree with diffusers' own arithmetic."""

import pytest
import torch
from conftest import ToyNet, scheduler, toy_denoiser
from diffusers import DDIMScheduler
from torch import Tensor, nn

from dmd.denoisers import EpsDenoiser, VDenoiser, as_denoiser
from dmd.processes import DDPMProcess, append_dims
from dmd.sampling import ddim

SCHEDULES = ["linear", "scaled_linear", "squaredcos_cap_v2"]


@pytest.mark.parametrize("beta_schedule", SCHEDULES)
def test_the_process_is_variance_preserving_and_equals_diffusers(beta_schedule: str) -> None:
    s = scheduler(beta_schedule=beta_schedule)
    process = DDPMProcess.from_scheduler(s)
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


@pytest.mark.parametrize(("kind", "atol"), [(EpsDenoiser, 1e-8), (VDenoiser, 1e-12)])
def test_a_perfect_network_gives_back_x0(kind: type, atol: float) -> None:
    """target() and to_x0() are inverse to one another in float64, at both ends of the linear schedule too."""
    process = DDPMProcess.from_scheduler(scheduler(beta_schedule="linear"))
    t = torch.tensor([0, 1, 500, 998, 999])
    x0, eps = torch.randn(2, 5, 1, 8, 8).double()
    perfect = kind(Fixed(kind(nn.Identity(), process).target(x0, eps, t)), process)
    torch.testing.assert_close(perfect(process.add_noise(x0, eps, t), t), x0, rtol=0, atol=atol)


def test_eps_and_v_forms_of_one_prediction_agree() -> None:
    process = DDPMProcess.from_scheduler(scheduler(beta_schedule="linear"))
    t = torch.tensor([0, 20, 500, 980, 999])
    x_t, v = torch.randn(2, 5, 1, 8, 8).double()
    alpha, sigma = append_dims(process.alpha(t), 4), append_dims(process.sigma(t), 4)
    eps = alpha * v + sigma * x_t  # from x_t = alpha x0 + sigma eps, v = alpha eps - sigma x0
    torch.testing.assert_close(
        EpsDenoiser(Fixed(eps), process)(x_t, t), VDenoiser(Fixed(v), process)(x_t, t), rtol=0, atol=1e-8
    )


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_the_weighted_x0_error_is_the_networks_own_loss(prediction_type: str) -> None:
    """loss_weight(t) |x0 - x0_hat|^2 = |target - output|^2, at every t: the critic minimises the teacher's loss."""
    denoiser = toy_denoiser(prediction_type, dtype=torch.float64)
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
    with pytest.raises(ValueError, match=r"'sample' is not supported; known: epsilon, v_prediction"):
        as_denoiser(ToyNet(), scheduler("sample"))


def test_a_copy_is_independent() -> None:
    first = toy_denoiser().requires_grad_(False)
    second = first.copy()
    assert all(p.requires_grad for p in second.parameters())
    with torch.no_grad():
        next(second.parameters()).add_(1)
    assert not torch.equal(next(first.parameters()), next(second.parameters()))


def test_ddim_of_a_point_mass_arrives_at_it() -> None:
    """If all data are one image, x0 is that image from everywhere, and the trajectory must end there."""
    process = DDPMProcess.from_scheduler(scheduler())
    point = torch.randn(1, 1, 8, 8)

    class PointTeacher(VDenoiser):
        def predict(self, x_t: Tensor, t: Tensor, cond: Tensor | None) -> Tensor:
            alpha, sigma = append_dims(process.alpha(t), 4), append_dims(process.sigma(t), 4)
            return ((alpha * x_t - point) / sigma).float()

    s = DDIMScheduler.from_config(scheduler().config, timestep_spacing="trailing", clip_sample=False)
    for steps in (1, 2, 10):
        x = ddim(PointTeacher(nn.Identity(), process), torch.randn(3, 1, 8, 8), s, steps)
        torch.testing.assert_close(x, point.expand(3, -1, -1, -1), rtol=0, atol=1e-4)
