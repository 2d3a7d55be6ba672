"""Turns with shifted times, with dropped conditions, and with noised data in place of a trajectory."""

from collections import Counter

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from dmd.config import Params
from dmd.diffusion.denoiser import Denoiser
from dmd.diffusion.process import process_of, shift_indices, time_shift
from dmd.distillation.inputs.batches import TrainingImages
from dmd.distillation.methods import METHODS, Method, check_method
from dmd.distillation.methods.base import Setting
from dmd.distillation.methods.dmd import DMD
from dmd.distillation.networks import Networks
from dmd.distillation.state import TrainState
from dmd.distillation.trainer import train
from dmd.errors import ConfigError
from dmd.teachers.teacher import Teacher
from dmd.training.random_source import RandomSource
from tests.helpers.params import with_values
from tests.helpers.sources import split
from tests.helpers.training import NO_PAIRS, alone, batch, draws, gan_method, method, networks, short_training

T = 1000


def test_a_shift_of_indices_is_the_time_shift_of_a_flow_on_top_of_its_own() -> None:
    """On a schedule that is shifted by 3, indices shifted by 5 / 3 have the noise levels of a shift by 5."""
    sigma = process_of(FlowMatchEulerDiscreteScheduler(shift=3.0)).sigma_grid
    t = torch.arange(T)
    shares = (t + 1).double() / T
    torch.testing.assert_close(sigma[shift_indices(t, 5 / 3, T)], time_shift(shares, 5.0), rtol=0, atol=2e-3)
    assert torch.equal(shift_indices(t, 1.0, T), t)
    assert shift_indices(t, 5.0, T)[-1] == T - 1 and shift_indices(t, 5.0, T).min() >= 0
    assert (shift_indices(shift_indices(t, 4.0, T), 1 / 4, T) - t).abs().max() <= 4  # the grid is coarse at the top


def noised(m: Method, turn: str, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """Every t at which a turn of `m` adds noise, in 40 batches of 64."""
    nets, times = networks(), list[Tensor]()
    add_noise = nets.teacher.process.add_noise

    def spy(x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        times.append(t)
        return add_noise(x0, eps, t)

    for net in (nets.teacher, nets.critic):
        monkeypatch.setattr(net.process, "add_noise", spy)
    z, y = batch(64)
    for seed in range(40):
        m.loss(turn, nets, z, y, draws(seed, 64))
    return torch.cat(times)


@pytest.mark.parametrize("turn", ["critic", "generator"])
def test_shifted_times_have_the_shifted_median_and_stay_in_range(
    params: Params, turn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    t = noised(method(params, t_shift=3.0, t_min=0.1, t_max=0.9), turn, monkeypatch)
    assert t.double().median() / T == pytest.approx(0.75, abs=0.02)  # 3 * 0.5 / (1 + 2 * 0.5)
    if turn == "generator":
        assert t.min() >= 100 and t.max() == 900


def test_dropped_conditions_are_the_null_condition_and_change_nothing_else(params: Params) -> None:
    nets, (z, y) = networks(), batch(64)
    whole = method(params)
    m = method(params, condition_dropout=0.25)
    m.null = 10
    dropped = [m.drop_conditions(y, draws(seed, 64)) for seed in range(40)]
    changed = torch.stack([labels != y for labels in dropped])
    assert changed.double().mean().item() == pytest.approx(0.25, abs=0.03)
    assert all((labels[labels != y] == 10).all() for labels in dropped)
    labels = m.drop_conditions(y, draws(7, 64))
    x, _ = whole.draw_images("critic", nets, z, y, draws(7, 64))
    r = draws(7, 64)
    want = whole.critic_loss(nets, x, labels, r)["total"]  # the same images, times and noise
    assert m.critic_loss(nets, x, y, draws(7, 64))["total"].item() == want.item()
    assert (
        m.loss("generator", nets, z, y, draws(7, 64))["total"]
        == whole.loss("generator", nets, z, y, draws(7, 64))["total"]
    )


def test_the_null_condition_is_the_last_of_the_teacher(params: Params, teacher: Teacher) -> None:
    m = method(params, condition_dropout=0.25)
    m.networks(teacher, 0)
    assert m.null == teacher.conditions - 1


def few_step(params: Params, **changes: object) -> Method:
    """DMD of four steps on data that differ from image to image."""
    cfg = method(params, steps=4, **changes).cfg
    rng = torch.Generator().manual_seed(3)
    return METHODS["dmd"](
        cfg, T, NO_PAIRS, TrainingImages(torch.rand(40, 1, 8, 8, generator=rng), torch.arange(40) % 10)
    )


@pytest.mark.parametrize("turn", ["critic", "generator"])
def test_a_later_step_starts_from_noised_data_with_their_labels(params: Params, turn: str) -> None:
    """The first step starts from noise, with the conditions of the turn."""
    nets, m, steps = networks(), few_step(params, later_inputs="data"), set[int]()
    z, y = torch.randn(6, 4, 1, 8, 8, generator=torch.Generator().manual_seed(5)), batch()[1]
    for seed in range(12):
        k = m.last_step(draws(seed, turn=turn))
        x, cond = m.draw_images(turn, nets, z, y, draws(seed, turn=turn))
        t = torch.full((6,), m.generator_times[k])
        data, labels = m.data.draw(draws(seed, turn=turn), z)
        start = z[:, 0] if k == 0 else nets.generator.process.add_noise(data, z[:, k], t)
        assert cond is not None and torch.equal(cond, labels if k else y)
        torch.testing.assert_close(x, nets.generator(start, t, labels if k else y), rtol=1e-5, atol=1e-6)
        assert x.requires_grad == (turn == "generator")
        steps.add(k)
    assert steps == {0, 1, 2, 3}


@pytest.mark.parametrize("parts", [1, 2])
def test_only_the_later_steps_of_a_training_start_from_data(
    params: Params, monkeypatch: pytest.MonkeyPatch, parts: int
) -> None:
    """The trainer draws noise and labels before the step, so that a turn's source is not at its start."""
    nets, m = networks(), few_step(params, later_inputs="data", critic_turns=1)
    cfg = short_training(params, generator_turns=20, accumulate=parts)
    inputs, called = list[tuple[Tensor, Tensor, RandomSource]](), list[tuple[Tensor, Tensor, Tensor]]()
    generate, forward = DMD.generate, Denoiser.forward

    def watched(self: DMD, network: str, nets: Networks, z: Tensor, cond: Tensor, rng: RandomSource) -> Tensor:
        inputs.append((z, cond, rng))
        return generate(self, network, nets, z, cond, rng)

    def seeing(self: Denoiser, x_t: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        if self is nets.generator:
            called.append((x_t.clone(), t, cond))
        return forward(self, x_t, t, cond)

    monkeypatch.setattr(DMD, "generate", watched)
    monkeypatch.setattr(Denoiser, "forward", seeing)
    list(train(TrainState(nets, cfg), m, cfg, (1, 8, 8), split().labels, alone(parts)))
    steps = Counter[int]()
    for (z, cond, rng), (x_t, t, labels) in zip(inputs, called, strict=True):  # one pass of the generator in each part
        k = m.generator_times.index(int(t[0]))
        data, of_data = m.data.draw(rng, z)
        noised = nets.generator.process.add_noise(data, z[:, k], t)
        torch.testing.assert_close(x_t, noised if k else nets.generator.process.prior(z[:, 0], t))
        assert torch.equal(labels, cond) and (not k or torch.equal(labels, of_data))
        steps[k] += 1
    assert steps.keys() == {0, 1, 2, 3} and steps[0] < 0.4 * steps.total()


def test_turns_from_data_are_read_ahead(params: Params) -> None:
    cfg = params.train.model_copy(update={"generator_turns": 3})
    for m, name in ((few_step(params, later_inputs="data"), "distill"),):
        assert {p.name: set(p.reads_images) for p in m.phases(cfg)}[name] == {"critic", "generator"}
    assert all(not phase.reads_images for phase in few_step(params).phases(cfg))
    gan = gan_method(params, steps=4, later_inputs="data")
    assert {"critic", "generator"} <= set(gan.phases(cfg)[-1].reads_images)


def test_options_that_cannot_work_are_one_line_before_a_run(params: Params) -> None:
    for changes, setting, words in (
        (
            {"condition_dropout": 0.1},
            {"has_null": False},
            "method.condition_dropout: the teacher has no null condition",
        ),
        ({"later_inputs": "data", "steps": 4}, {"has_images": False}, "method.later_inputs: data needs images"),
    ):
        run = with_values(params, method=changes)
        facts = {"on_pixels": True, "has_images": True, "pairs": 1, **setting}
        with pytest.raises(ConfigError, match=words):
            check_method(run, Setting(**facts))  # type: ignore[arg-type]
    for changes, words in (
        ({"steps": 1}, "data has no effect on one step"),
        ({"steps": 4, "name": "gdd"}, "data is not for gdd"),
    ):
        with pytest.raises(ValueError, match=words):
            method(params, later_inputs="data", **changes)
