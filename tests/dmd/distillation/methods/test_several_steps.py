"""A generator of several steps: sampler, backward simulation and warm start."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dmd.config import Params
from dmd.diffusion.denoiser import Denoiser
from dmd.distillation.inputs.batches import draw_pairs
from dmd.distillation.methods import METHODS
from dmd.samplers.few_step import generate, step_times
from dmd.teachers.pairs import Pairs
from tests.helpers.networks import toy_denoiser
from tests.helpers.sources import reals
from tests.helpers.training import draws
from tests.helpers.training import gan_method as method
from tests.helpers.training import gan_networks as networks


def test_steps_are_spread_over_the_range() -> None:
    assert (
        step_times(999, 4) == (999, 749, 499, 249) and step_times(399, 1) == (399,) and step_times(399, 2) == (399, 199)
    )


def test_each_later_step_adds_new_noise_to_the_prediction() -> None:
    """x0 is predicted from pure noise, noised to the next index with z_k, and predicted again."""
    g, z, y = toy_denoiser(), torch.randn(5, 3, 1, 8, 8), torch.arange(5)
    x = g(z[:, 0], torch.full((5,), 999), y)
    for k, t in ((1, 600), (2, 200)):
        time = torch.full((5,), t)
        x = g(g.process.add_noise(x, z[:, k], time), time, y)
    assert torch.equal(generate(g, z, (999, 600, 200), y), x)


def test_backward_simulation_is_the_samplers_trajectory_with_gradient_in_its_last_step(params: Params) -> None:
    m = method(params, steps=4, gan={"weight": 0.0})
    nets = networks(m)
    z, y = torch.randn(3, 4, 1, 8, 8), torch.arange(3)
    ends = set()
    for seed in range(30):
        last = m.last_step(draws(seed, 3))  # type: ignore[attr-defined]
        ends.add(last)
        x = m.generate("critic", nets, z, y, draws(seed, 3))  # type: ignore[attr-defined]
        assert torch.equal(x, generate(nets.generator, z, (999, 749, 499, 249)[: last + 1], y)) and not x.requires_grad
    assert ends == {0, 1, 2, 3}
    calls: list[bool] = []
    handle = nets.generator.net.register_forward_hook(lambda _m, _i, out: calls.append(out.sample.requires_grad))
    generate(nets.generator, z, (999, 749, 499, 249), y)
    handle.remove()
    assert calls == [False, False, False, True]


@pytest.mark.parametrize("last", range(4))
def test_under_autocast_every_weight_of_the_last_step_has_a_gradient(params: Params, last: int) -> None:
    """The cast weights of the earlier steps, which carry no gradient, must not be reused in the last step."""
    m = method(params, steps=4, gan={"weight": 0.0})
    nets = networks(m)
    seed = next(s for s in range(100) if m.last_step(draws(s, 3)) == last)  # type: ignore[attr-defined]
    with nets.only_training("generator") as learner, torch.autocast("cpu", torch.bfloat16):
        losses = m.loss("generator", nets, torch.randn(3, 4, 1, 8, 8), torch.arange(3), draws(seed, 3))
    losses["total"].backward()
    assert [name for name, p in learner.named_parameters() if p.grad is None or not p.grad.any()] == []


def teacher_trajectory(teacher: Denoiser, x: Tensor, first: int, labels: Tensor | None) -> Tensor:
    """x0 after ten evenly spaced DDIM steps from index `first`."""
    process, x0 = teacher.process, x
    for k in range(10):
        now, then = (torch.full((len(x),), round((first + 1) * (1 - j / 10)) - 1) for j in (k, k + 1))
        x0 = teacher(x, now, labels)
        a, s = (v(now).reshape(-1, 1, 1, 1).float() for v in (process.alpha, process.sigma))
        if k < 9:
            x = process.add_noise(x0, (x - a * x0) / s, then)
    return x0


def test_the_warm_start_of_several_steps_trains_every_step(params: Params) -> None:
    """The target of the first step is the pair's image; that of a later step is the end of the teacher's trajectory."""
    pairs = Pairs(torch.randn(12, 1, 8, 8), torch.randn(12, 1, 8, 8), torch.arange(12) % 10)
    cfg = params.method.model_copy(update={"steps": 4})
    m = METHODS["dmd"](cfg, 1000, pairs, reals())
    nets, indices = networks(method(params)), set()
    for seed in range(30):
        loss = m.warm_start_loss("generator", nets, torch.empty(0), None, draws(seed))["total"]  # type: ignore[attr-defined]
        rng = draws(seed)
        drawn, k = draw_pairs(pairs, rng), rng.common_integer(4)
        t = torch.full((len(drawn.x),), (999, 749, 499, 249)[k])
        process = nets.generator.process
        x_t = process.prior(drawn.z, t) if k == 0 else process.add_noise(drawn.x, rng.noise(1, 8, 8), t)
        target = drawn.x if k == 0 else teacher_trajectory(nets.teacher, x_t, int(t[0]), drawn.labels)
        assert loss.item() == pytest.approx(F.mse_loss(nets.generator(x_t, t, drawn.labels), target).item(), rel=1e-5)
        indices.add(k)
    assert indices == {0, 1, 2, 3}
