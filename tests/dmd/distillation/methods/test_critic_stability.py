"""Projection (PDMD), interpolation of the critic (IDA) and the critic's average, with distribution matching."""

from typing import Any

import pytest
import torch
from torch import Tensor

from dmd.config import Params, TrainConfig, validate
from dmd.diffusion.denoiser import Guided
from dmd.distillation.losses import project_out, score_difference
from dmd.distillation.methods import METHODS, Method, check_method
from dmd.distillation.networks import Networks
from dmd.distillation.state import TrainState
from dmd.distillation.trainer import train
from dmd.errors import ConfigError
from dmd.teachers.teacher import Teacher
from dmd.training.ema import interpolate
from tests.helpers.networks import toy_denoiser, unet_denoiser
from tests.helpers.params import with_values
from tests.helpers.sources import split
from tests.helpers.training import alone, batch, draws, method, networks, short_training

SHAPE = (1, 8, 8)


def images(seed: int, n: int = 6) -> Tensor:
    return torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def inner(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(1).sum(dim=1)


def test_a_projection_is_orthogonal_to_its_direction_and_shortens() -> None:
    d, r = images(0), images(1)
    got = project_out(d, r)
    assert inner(got, r).abs().max() < 1e-7
    assert (inner(got, got) < inner(d, d)).all() and inner(got, got).min() > 0
    torch.testing.assert_close(project_out(got, r), got, rtol=0, atol=1e-8)
    torch.testing.assert_close(project_out(d, 3 * r), got, rtol=0, atol=1e-8)
    assert torch.equal(project_out(d, torch.zeros_like(r)), d)
    assert project_out(r, r).abs().max() < 1e-8


def test_samples_are_projected_independently_and_the_projection_commutes_with_the_normaliser() -> None:
    x, real, fake = images(0), images(1), images(2)
    r = fake - x
    weighted = project_out(score_difference(x, real, fake, 1e-4), r)
    scale = (x - real).abs().flatten(1).mean(dim=1)[:, None, None, None]
    torch.testing.assert_close(weighted, project_out(fake - real, r) / scale)
    torch.testing.assert_close(project_out(fake[:1] - real[:1], r[:1]), project_out(fake - real, r)[:1])


@pytest.mark.parametrize("projected", [False, True])
def test_the_generator_follows_the_projected_score_difference(params: Params, projected: bool) -> None:
    m, nets = method(params, projection=projected), networks()
    seen: list[tuple[Tensor, Tensor]] = []

    def spy(grad: Tensor, _nets: object, score: Any) -> Tensor:
        seen.append((grad, score_difference(score.x, score.real, score.fake, m.cfg.normaliser_min)))
        seen.append((score.fake - score.x, score.x))
        return grad

    z, y = batch()
    x = m.generate("generator", nets, z, y, draws())  # type: ignore[attr-defined]
    m.generator_loss(nets, x, y, draws(), spy)  # type: ignore[attr-defined]
    (grad, difference), (direction, _) = seen
    torch.testing.assert_close(grad, project_out(difference, direction) if projected else difference, rtol=0, atol=0)
    assert (inner(grad, direction).abs().max() < 1e-3) == projected


def test_a_critic_that_equals_the_teacher_gives_no_gradient(params: Params) -> None:
    m, nets = method(params, projection=True), networks(different=False)
    z, y = batch()
    x = m.generate("generator", nets, z, y, draws())  # type: ignore[attr-defined]
    m.generator_loss(nets, x, y, draws())["total"].backward()  # type: ignore[attr-defined]
    grads = [p.grad for p in nets.generator.parameters() if p.grad is not None]
    assert grads and all(grad.abs().max() == 0 for grad in grads)


def changes_of_critic(params: Params, weight: float) -> list[tuple[str, bool, bool]]:
    """For each turn: its name, and whether the critic changed after it and equals the generator."""
    m, cfg = method(params, critic_turns=2, critic_interpolation=weight), short_training(params, generator_turns=2)
    state = TrainState(networks(), cfg)
    nets, turns = state.nets, list[tuple[str, bool, bool]]()
    steady = m.steady  # type: ignore[attr-defined]

    def spy(turn: str, *more: Any) -> None:
        before = [p.clone() for p in nets.critic.parameters()]
        moments = [v.clone() for s in state.optimizers["critic"].state.values() for v in s.values()]
        steady(turn, *more)
        after = [v for s in state.optimizers["critic"].state.values() for v in s.values()]
        assert all(map(torch.equal, moments, after))
        changed = not all(map(torch.equal, before, nets.critic.parameters()))
        turns.append((turn, changed, all(map(torch.equal, nets.critic.parameters(), nets.generator.parameters()))))

    m.steady = spy  # type: ignore[attr-defined]
    list(train(state, m, cfg, SHAPE, split().labels, alone()))
    return turns


def test_the_critic_moves_towards_the_generator_after_generator_turns_alone(params: Params) -> None:
    """At lambda 1 it never moves, at 0 it becomes a copy; AdamW's moments stay as they are."""
    critic = ("critic", False, False)
    assert changes_of_critic(params, 1.0) == [critic, critic, ("generator", False, False)] * 2
    assert changes_of_critic(params, 0.97) == [critic, critic, ("generator", True, False)] * 2
    assert changes_of_critic(params, 0.0) == [critic, critic, ("generator", True, True)] * 2


CRITICS = {name: m for name, m in METHODS.items() if m.has_critic}


def one_turn(params: Params, name: str, **changes: object) -> tuple[Networks, dict[str, Tensor]]:
    """The networks after one critic turn and one generator turn, and the critic's weights before them."""
    m, cfg = method(params, name=name, critic_turns=1, **changes), short_training(params, generator_turns=1)
    denoiser = unet_denoiser(0).requires_grad_(False)
    guided = Guided(denoiser, 3.0, null=10) if name == "decoupled" else denoiser
    nets = m.networks(Teacher(denoiser, guided, None, SHAPE, 11), 0)  # type: ignore[arg-type]
    nets.generator.load_state_dict(unet_denoiser(1).state_dict())
    nets.critic.load_state_dict(unet_denoiser(2).state_dict())
    before = {k: v.clone() for k, v in nets.critic.named_parameters()}
    list(train(TrainState(nets, cfg), m, cfg, SHAPE, split().labels, alone()))
    return nets, before


@pytest.mark.parametrize("name", CRITICS)
def test_every_method_with_a_critic_can_be_stabilised(params: Params, name: str) -> None:
    """At lambda 0 the critic is the generator after its turn, and the average is that of the critic before it."""
    assert set(CRITICS) == {"dmd", "dmd2", "f_distill", "decoupled"}
    nets, before = one_turn(params, name, critic_average=0.5)
    assert nets.critic_average is not None
    started = dict(unet_denoiser(0).named_parameters())  # the average begins as a copy of the critic, the teacher
    for key, p in nets.critic.named_parameters():
        assert not torch.equal(p, before[key])
        torch.testing.assert_close(nets.critic_average.get_parameter(key), 0.5 * started[key] + 0.5 * p)
    nets, _ = one_turn(params, name, critic_interpolation=0.0)
    assert all(map(torch.equal, nets.critic.parameters(), nets.generator.parameters()))
    plain, projected = (one_turn(params, name, projection=on)[0].generator for on in (False, True))
    assert not all(map(torch.equal, plain.parameters(), projected.parameters()))


def test_interpolation_mixes_parameters_that_train_in_both() -> None:
    a, b = toy_denoiser(seed=1, dtype=torch.float64), toy_denoiser(seed=2, dtype=torch.float64)
    b.net.label.weight.requires_grad_(False)
    before = {k: v.clone() for k, v in a.named_parameters()}
    interpolate(a, b, 0.7)
    for name, p in a.named_parameters():
        expected = before[name] if "label" in name else 0.7 * before[name] + 0.3 * b.get_parameter(name)
        torch.testing.assert_close(p, expected)


def averaging(params: Params, **changes: object) -> tuple[Method, TrainConfig, TrainState]:
    """A training whose critic's average predicts."""
    m = method(params, critic_turns=2, critic_average=0.9, critic_interpolation=0.9, **changes)
    cfg = short_training(params, generator_turns=3)
    denoiser = unet_denoiser(0).requires_grad_(False)
    nets = m.networks(Teacher(denoiser, denoiser, None, SHAPE, 11), 0)
    nets.generator.load_state_dict(unet_denoiser(1).state_dict())
    return m, cfg, TrainState(nets, cfg)


def test_the_average_of_the_critic_predicts_and_follows_its_turns(params: Params) -> None:
    m, cfg, state = averaging(params)
    average = state.nets.critic_average
    assert average is not None and state.nets.scorer is average and "critic_average" not in state.nets.trained
    expected = {k: v.clone() for k, v in average.named_parameters()}
    steady, calls = m.steady, list[str]()  # type: ignore[attr-defined]

    def spy(turn: str, *more: Any) -> None:
        steady(turn, *more)
        calls.append(turn)
        for name, p in state.nets.critic.named_parameters():
            if turn == "critic":
                expected[name] = 0.9 * expected[name] + 0.1 * p.detach()

    m.steady = spy  # type: ignore[attr-defined]
    list(train(state, m, cfg, SHAPE, split().labels, alone()))
    assert calls == ["critic", "critic", "generator"] * 3
    for name, p in average.named_parameters():
        torch.testing.assert_close(p, expected[name], rtol=1e-5, atol=1e-6)
    # The score difference is that of the average: with a broken critic it stays finite.
    z, y = batch()
    with torch.no_grad():
        next(state.nets.critic.parameters()).fill_(float("nan"))
    x = m.generate("generator", state.nets, z, y, draws())  # type: ignore[attr-defined]
    assert m.generator_loss(state.nets, x, y, draws())["total"].isfinite()  # type: ignore[attr-defined]


def test_a_method_without_critic_and_adapters_refuse_the_critics_options(params: Params) -> None:
    gan = params.method.gan.model_copy(update={"trunks": ["teacher"]})
    values = {"name": "gdd", "gan": gan, "projection": True, "critic_interpolation": 0.9, "critic_average": 0.5}
    with pytest.raises(ConfigError) as error:
        check_method(with_values(params, method=values))
    keys = [line.split(":")[0] for line in str(error.value).splitlines()]
    assert keys == ["method.projection", "method.critic_interpolation", "method.critic_average"]
    run = with_values(params, method={"critic_interpolation": 0.9}, train={"lora_rank": 4})
    with pytest.raises(ConfigError, match=r"method\.critic_interpolation: mixing two adapters"):
        validate(run.model_dump(by_alias=True), "params.yaml")
