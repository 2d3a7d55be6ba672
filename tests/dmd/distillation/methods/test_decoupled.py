"""Decoupled DMD: guidance and distribution matching at times of their own, and the interval of guidance."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from dmd.config import ConfigError, Params, validate
from dmd.diffusion.denoiser import Denoiser, Guided
from dmd.distillation.losses import add_augmentation, score_difference
from dmd.distillation.methods import Method, Setting, check_method
from dmd.distillation.networks import Networks
from dmd.distillation.state import TrainState
from dmd.distillation.trainer import train
from tests.helpers.networks import toy_denoiser
from tests.helpers.params import with_values
from tests.helpers.sources import split
from tests.helpers.training import alone, batch, draws, method, short_training

NULL = 10


def images(seed: int) -> Tensor:
    return torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def guided(scale: float = 3.0, interval: tuple[float, float] = (0.0, 1.0)) -> Networks:
    """Toy networks in float64 with a guided teacher."""
    teacher = Guided(toy_denoiser(seed=0, dtype=torch.float64).requires_grad_(False), scale, NULL, interval)
    return Networks(teacher, toy_denoiser(seed=1, dtype=torch.float64), toy_denoiser(seed=2, dtype=torch.float64))


def gradient(m: Method, nets: Networks, seed: int = 7) -> tuple[Tensor, dict[str, Tensor]]:
    """The gradient on the generator's images, and the numbers of the turn."""
    x = images(3).requires_grad_()
    losses = m.generator_loss(nets, x, batch()[1], draws(seed))  # type: ignore[attr-defined]
    losses["total"].backward()
    assert x.grad is not None
    return x.grad * x.numel(), losses


def test_with_one_time_noise_and_normaliser_it_is_the_score_difference_of_the_guided_teacher() -> None:
    fake, c, u, w = images(0), images(1), images(2), 1.7
    scale = torch.full((6,), 3.5, dtype=torch.float64)
    got = add_augmentation((fake - c) / w, (u - c) / w, scale)
    torch.testing.assert_close(got, (fake - (u + 3.5 * (c - u))) / w)
    assert torch.equal(add_augmentation(fake, u, torch.ones(6, dtype=torch.float64)), fake)  # scale 1 is DMD


def test_a_guidance_of_one_is_dmd_to_the_bit(params: Params) -> None:
    decoupled, plain = method(params, name="decoupled"), method(params)
    nets = guided(1.0)
    assert isinstance(nets.teacher, Guided)
    unguided = Networks(nets.teacher.unguided, nets.generator, nets.critic)
    assert torch.equal(gradient(decoupled, nets)[0], gradient(plain, unguided)[0])
    assert not torch.allclose(gradient(decoupled, guided(3.0))[0], gradient(plain, unguided)[0])


def test_the_gradient_is_that_of_both_terms_at_their_own_times(params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    m, nets = method(params, name="decoupled"), guided(3.0)
    seen: dict[str, Any] = {}
    score, predict_both = m.score, Guided.predict_both  # type: ignore[attr-defined]
    monkeypatch.setattr(m, "score", lambda *args: seen.setdefault("score", score(*args)))

    def spy(teacher: Guided, x_t: Tensor, t: Tensor, cond: Tensor) -> tuple[Tensor, Tensor]:
        seen.update(t=t, both=predict_both(teacher, x_t, t, cond))
        return seen["both"]

    monkeypatch.setattr(Guided, "predict_both", spy)
    grad, numbers = gradient(m, nets)
    s, (c, u) = seen["score"], seen["both"]
    assert not torch.equal(s.t, seen["t"])
    torch.testing.assert_close(s.real, Denoiser.forward(nets.teacher.unguided, s.x_t, s.t, s.cond))  # type: ignore[union-attr]
    dm = score_difference(s.x, s.real, s.fake, 1e-4)
    ca = (c - u) / (s.x - c).abs().flatten(1).mean(dim=1)[:, None, None, None]
    torch.testing.assert_close(grad, dm - 2 * ca)
    assert numbers["matching"] == dm.abs().mean() and numbers["augmentation"].item() == pytest.approx(
        (2 * ca).abs().mean().item()
    )


@pytest.mark.parametrize("step", range(4))
def test_guidance_acts_below_the_level_at_which_a_step_starts(params: Params, step: int) -> None:
    several, one = method(params, name="decoupled", steps=4), method(params, name="decoupled")
    low, high = several.augmentation_range(step)  # type: ignore[attr-defined]
    assert 20 == low < high <= several.generator_times[step]
    assert one.augmentation_range(0) == (20, 981)  # type: ignore[attr-defined]


def test_the_step_of_the_turn_bounds_the_time_of_guidance(params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a training: its source has drawn noise and labels before the step is known."""
    m, nets = method(params, name="decoupled", steps=4, critic_turns=1), guided(3.0)
    cfg = short_training(params, generator_turns=24)
    levels, bounds = list[int](), list[tuple[int, int]]()
    predict_both, forward = Guided.predict_both, Denoiser.forward

    def watched(teacher: Guided, x_t: Tensor, t: Tensor, cond: Tensor) -> tuple[Tensor, Tensor]:
        bounds.append((int(t.max()), levels[-1]))
        return predict_both(teacher, x_t, t, cond)

    def seeing(self: Denoiser, x_t: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        if self is nets.generator:
            levels.append(int(t[0]))  # the last one is that of the step which trains
        return forward(self, x_t, t, cond)

    monkeypatch.setattr(Guided, "predict_both", watched)
    monkeypatch.setattr(Denoiser, "forward", seeing)
    list(train(TrainState(nets, cfg), m, cfg, (1, 8, 8), split().labels, alone()))
    assert len(bounds) == 24 and {start for _, start in bounds} == set(m.generator_times)
    assert all(t < start for t, start in bounds)


def test_a_guided_teacher_predicts_with_and_without_the_condition_in_one_call() -> None:
    teacher = guided(3.0).teacher
    assert isinstance(teacher, Guided)
    x_t, t, y = images(0), torch.randint(1000, (6,)), batch()[1]
    c, u = teacher.predict_both(x_t, t, y)
    torch.testing.assert_close(c, teacher.unguided(x_t, t, y))
    torch.testing.assert_close(u, teacher.unguided(x_t, t, torch.full_like(y, NULL)))
    torch.testing.assert_close(teacher(x_t, t, y), u + 3 * (c - u))


def test_outside_of_its_interval_a_teacher_is_conditional_alone(params: Params) -> None:
    inside = guided(3.0).teacher
    teacher = guided(3.0, (0.2, 0.6)).teacher
    assert isinstance(inside, Guided) and isinstance(teacher, Guided)
    x_t, t, y = images(0), torch.tensor([0, 199, 200, 600, 601, 999]), batch()[1]
    got = teacher(x_t, t, y)
    assert torch.equal(got[2:4], inside(x_t, t, y)[2:4])
    torch.testing.assert_close(got[[0, 1, 4, 5]], teacher.unguided(x_t, t, y)[[0, 1, 4, 5]])
    assert not torch.allclose(got[1], inside(x_t, t, y)[1])
    # Decoupled guidance keeps to the interval too.
    outside = guided(3.0, (0.99, 1.0))
    plain = Networks(outside.teacher.unguided, outside.generator, outside.critic)  # type: ignore[union-attr]
    assert torch.equal(gradient(method(params, name="decoupled"), outside)[0], gradient(method(params), plain)[0])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method": {"name": "decoupled"}}, "method.name: decoupled needs guidance; set guidance.scale above 1"),
        (
            {"method": {"name": "decoupled"}, "guidance": {"scale": 3.0, "rescale": 0.7}},
            "guidance.rescale: decoupled cannot rescale guided predictions; set it to 0, or method.name to dmd",
        ),
        ({"guidance": {"t_min": 0.5, "t_max": 0.5}}, "guidance.t_min: 0.5 must be below t_max (0.5)"),
    ],
)
def test_what_guidance_cannot_do_is_one_line(params: Params, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as error:
        validate(with_values(params, **changes).model_dump(by_alias=True), "params.yaml")
    assert str(error.value).startswith(f"params.yaml: {words}")


def test_a_teacher_that_takes_guidance_as_an_input_is_one_line(params: Params) -> None:
    run = with_values(params, method={"name": "decoupled"}, guidance={"scale": 3.0})
    setting = Setting(on_pixels=False, has_images=True, pairs=1)
    check_method(run, setting)
    with pytest.raises(ConfigError, match=r"^method\.name: decoupled needs predictions without guidance, .*; use dmd$"):
        check_method(run, replace(setting, guided_by_input=True))
