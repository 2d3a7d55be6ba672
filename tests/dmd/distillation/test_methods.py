"""The turns of DMD have the right order, noise levels and losses, and train the right networks."""

import pytest
import torch
from diffusers import EDMEulerScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor

from dmd.config import METHOD_NAMES, Params
from dmd.diffusion.denoiser import as_denoiser
from dmd.distillation.losses import denoising_loss, distribution_matching_loss, score_difference
from dmd.distillation.methods import METHODS, check_method
from dmd.distillation.phases import Phase
from dmd.errors import ConfigError
from dmd.samplers.few_step import one_step
from dmd.teachers.pairs import Pairs
from tests.helpers.networks import ToyNet, scheduler
from tests.helpers.sources import reals
from tests.helpers.training import NO_PAIRS, batch, draws, method, networks


def phases(params: Params, warm: tuple[int, int] = (0, 0), turns: int = 3, **changes: object) -> dict[str, Phase]:
    warm_start = params.train.warm_start.model_copy(update={"turns": warm[0], "critic_turns": warm[1]})
    cfg = params.train.model_copy(update={"warm_start": warm_start, "generator_turns": turns})
    return {phase.name: phase for phase in method(params, **changes).phases(cfg)}


@pytest.mark.parametrize("k", [1, 3, 5])
def test_the_generator_trains_after_every_k_critic_turns(params: Params, k: int) -> None:
    phase = phases(params, critic_turns=k)["distill"]
    turns = [tuple(turn.network for turn in phase.turns_at(step)) for step in range(phase.steps)]
    assert all(t[0] == "critic" for t in turns) and phase.generator_turns == 3
    assert [i for i, t in enumerate(turns) if "generator" in t] == [k - 1, 2 * k - 1, 3 * k - 1]


def test_without_a_warm_start_there_is_one_phase(params: Params) -> None:
    assert list(phases(params)) == ["distill"]


def test_the_warm_start_trains_the_generator_then_the_critic(params: Params) -> None:
    run = phases(params, warm=(4, 2))
    assert list(run) == ["warm_start", "catch_up", "distill"]
    assert [[t.network for t in run["warm_start"].turns_at(s)] for s in range(4)] == [["generator"]] * 4
    assert [[t.network for t in run["catch_up"].turns_at(s)] for s in range(2)] == [["critic"]] * 2
    assert sum(phase.generator_turns for phase in run.values()) == 4 + 3


def test_the_warm_start_is_regression_on_the_pairs(params: Params) -> None:
    """The loss depends on the pair's noise, label and image, and not on the noise that the trainer passes."""
    nets, (z, y) = networks(), batch(1)
    pairs = Pairs(z, torch.full_like(z, 0.3), y)
    warm = params.train.warm_start.model_copy(update={"turns": 1})
    phase = method(params, pairs).phases(params.train.model_copy(update={"warm_start": warm}))[0]
    losses = phase.loss("generator", nets, *batch(), draws())
    want = ((one_step(nets.generator, z, 999, y) - 0.3) ** 2).mean()
    assert losses["total"].item() == pytest.approx(want.item(), rel=1e-5)


@pytest.mark.parametrize("turn", ["critic", "generator"])
def test_a_turn_gives_gradients_to_its_own_network_only(params: Params, turn: str) -> None:
    nets = networks()
    method(params).loss(turn, nets, *batch(), draws())["total"].backward()
    for name in ("teacher", "generator", "critic"):
        grads = [p.grad for p in getattr(nets, name).parameters()]
        assert all(g is None for g in grads) == (name != turn), name


def test_equal_teacher_and_critic_give_no_gradient(params: Params) -> None:
    """The score difference is exactly zero, and so is the gradient of distribution matching."""
    nets = networks(different=False)
    method(params).loss("generator", nets, *batch(), draws())["total"].backward()
    assert max(p.grad.abs().max().item() for p in nets.generator.parameters() if p.grad is not None) == 0


def test_the_loss_of_a_generator_turn_is_the_papers_formula(params: Params) -> None:
    """x = G(z, T-1), t is in [0.02 T, 0.98 T], and real and fake are predicted from the same x_t and labels."""
    nets, (z, y) = networks(), batch()
    got = method(params).loss("generator", nets, z, y, draws())
    r = draws()
    x = nets.generator(z, torch.full((len(z),), 999), y)
    t = r.integers(20, 981)
    x_t = nets.teacher.process.add_noise(x, r.noise(1, 8, 8), t)
    grad = score_difference(x, nets.teacher(x_t, t, y), nets.critic(x_t, t, y), params.method.normaliser_min)
    want = distribution_matching_loss(x, grad)
    torch.testing.assert_close(got["total"], want, rtol=1e-6, atol=0)


def test_the_loss_of_a_critic_turn_is_the_teachers_loss_on_generated_images(params: Params) -> None:
    """For v-prediction, the loss is the mean squared error of v over the whole range of t."""
    nets, (z, y) = networks(), batch()
    got = method(params).loss("critic", nets, z, y, draws())
    r = draws()
    x = one_step(nets.generator, z, 999, y).detach()
    t = r.integers(0, 1000)
    eps = r.noise(1, 8, 8)
    x_t = nets.critic.process.add_noise(x, eps, t)
    want = ((nets.critic.predict(x_t, t, y) - nets.critic.target(x, eps, t)) ** 2).mean()
    torch.testing.assert_close(got["total"], want, rtol=1e-4, atol=0)
    assert denoising_loss(nets.critic(x_t, t, y), x, nets.critic.loss_weight(t)).item() == got["total"].item()


def noised_times(params: Params, turn: str, monkeypatch: pytest.MonkeyPatch, **changes: object) -> Tensor:
    """Every t at which a turn adds noise, in 60 batches of 64."""
    times: list[Tensor] = []
    nets = networks()
    add_noise = nets.teacher.process.add_noise

    def spy(x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        times.append(t)
        return add_noise(x0, eps, t)

    for net in (nets.teacher, nets.critic):
        monkeypatch.setattr(net.process, "add_noise", spy)
    m = method(params, **changes)
    for seed in range(60):
        m.loss(turn, nets, *batch(64), draws(seed, 64))
    return torch.cat(times)


def test_score_differences_are_taken_inside_the_range(params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    t = noised_times(params, "generator", monkeypatch)
    assert (t.min().item(), t.max().item()) == (20, 980)


def test_the_critic_trains_over_the_whole_range(params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    t = noised_times(params, "critic", monkeypatch)
    assert (t.min().item(), t.max().item()) == (0, 999)


def test_t_is_uniform(params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    t = noised_times(params, "generator", monkeypatch).double()
    assert t.mean().item() == pytest.approx(500, abs=15) and t.std().item() == pytest.approx(961 / 12**0.5, abs=10)


def test_an_earlier_generator_timestep_is_used_and_a_later_one_is_an_error(params: Params) -> None:
    nets, (z, y) = networks(), batch()
    x = one_step(nets.generator, z, 400, y)
    got = method(params, generator_timestep=400).loss("generator", nets, z, y, draws())
    assert got["x_mean"].item() == pytest.approx(x.mean().item())
    with pytest.raises(
        ValueError, match=r"generator_timestep: 1000 is beyond the teacher's last index; use at most 999"
    ):
        method(params, generator_timestep=1000)


def test_the_default_generator_timestep_depends_on_the_parametrisation(params: Params) -> None:
    """The default is T-1, except for eps-prediction, where x0 from pure noise amplifies the error 157 times."""
    kinds = {"epsilon": "linear", "v_prediction": "linear", "sample": "squaredcos_cap_v2"}
    starts = {kind: as_denoiser(ToyNet(), scheduler(kind, beta)) for kind, beta in kinds.items()}
    process, t = starts["epsilon"].process, starts["epsilon"].default_generator_timestep()
    assert (process.sigma_grid / process.alpha_grid)[t] <= 1 < (process.sigma_grid / process.alpha_grid)[t + 1]
    assert starts["v_prediction"].default_generator_timestep() == starts["sample"].default_generator_timestep() == 999
    for kind in (FlowMatchEulerDiscreteScheduler(), EDMEulerScheduler(num_train_timesteps=1000)):
        assert as_denoiser(ToyNet(), kind).default_generator_timestep() == 999
    cfg = params.method.model_copy(update={"steps": 2})
    assert METHODS["dmd"](cfg, 1000, NO_PAIRS, reals(), t).generator_times == (t, t - (t + 1) // 2)
    fixed = cfg.model_copy(update={"generator_timestep": 700})
    assert METHODS["dmd"](fixed, 1000, NO_PAIRS, reals(), t).generator_times[0] == 700


def test_regression_on_pairs_is_added_with_its_weight(params: Params) -> None:
    """The total is the loss of distribution matching plus the weighted error on the pairs."""
    nets = networks()
    z, y = batch(1)
    pairs = Pairs(z, torch.zeros_like(z), y)  # the only pair, so it is always drawn
    losses = method(params, pairs, regression_weight=0.25).loss("generator", nets, *batch(), draws())
    x = one_step(nets.generator, z, 999, y)
    assert losses["regression"].item() == pytest.approx((x**2).mean().item(), rel=1e-5)
    assert losses["total"].item() == pytest.approx((losses["dm"] + 0.25 * losses["regression"]).item(), rel=1e-6)


def test_f_distill_needs_the_discriminator_at_all_noise_levels(params: Params) -> None:
    gan = params.method.gan.model_copy(update={"t_max": 0.5})
    changed = params.model_copy(update={"method": params.method.model_copy(update={"name": "f_distill", "gan": gan})})
    with pytest.raises(ConfigError, match=r"method\.gan\.t_max: 0\.5 is not allowed; f_distill weights samples"):
        check_method(changed)
    check_method(params)


def test_the_schema_names_the_methods_that_exist() -> None:
    assert list(METHODS) == METHOD_NAMES
