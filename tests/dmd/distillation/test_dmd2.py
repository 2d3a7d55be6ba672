"""DMD2 and f-distill: the GAN's losses and whom they move, two phases, several steps with backward simulation."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dmd.config import Params, TrainConfig
from dmd.diffusion.denoiser import Denoiser
from dmd.distillation.batches import draw_pairs
from dmd.distillation.gan.activations import activations
from dmd.distillation.gan.discriminator import Discriminator, new_discriminator
from dmd.distillation.losses import critic_gan_loss, generator_gan_loss, r1_penalty
from dmd.distillation.methods import METHODS, dmd2
from dmd.distillation.state import TrainState
from dmd.distillation.trainer import train
from dmd.samplers.few_step import generate, step_times
from dmd.teachers.pairs import Pairs
from dmd.training.optim import optimizer_step
from tests.helpers.data import reals
from tests.helpers.networks import toy_denoiser, unet_denoiser
from tests.helpers.training import alone, batch, draws
from tests.helpers.training import gan_method as method
from tests.helpers.training import gan_networks as networks

REAL = reals()


def train_cfg(params: Params, **changes: object) -> TrainConfig:
    warm = params.train.warm_start.model_copy(update={"turns": 0, "critic_turns": 0})
    base = {
        "ema_half_lives": [20000],
        "generator_turns": 6,
        "batch_size": 8,
        "generator_batch_size": 8,
        "warmup_turns": 0,
        "warm_start": warm,
    }
    return params.train.model_copy(update={**base, **changes})


def test_the_gan_losses_are_the_logistic_ones() -> None:
    real, fake = torch.tensor([2.0, -1.0]), torch.tensor([0.5, -3.0])
    assert generator_gan_loss(fake).item() == pytest.approx(-F.logsigmoid(fake).mean().item(), rel=1e-6)
    want = -F.logsigmoid(real).mean() - torch.log(1 - torch.sigmoid(fake)).mean()
    assert critic_gan_loss(real, fake).item() == pytest.approx(want.item(), rel=1e-6)


def test_r1_is_the_squared_gradient() -> None:
    """For D(x) = w . x: E |w . n|^2 = |w|^2, whatever x and the size of the nudge."""
    w, r = torch.randn(12), torch.Generator().manual_seed(7)
    x, n = torch.randn(20_000, 12, generator=r), torch.randn(20_000, 12, generator=r)
    got = r1_penalty(x @ w, (x + 0.1 * n) @ w, 0.1)
    assert got.item() == pytest.approx((w**2).sum().item(), rel=0.05)


@pytest.mark.parametrize("size", [(3, 3), (4, 4), (7, 7), (8, 8), (32, 32)])
def test_the_head_gives_one_logit_per_image_whatever_the_size(size: tuple[int, int]) -> None:
    assert Discriminator([(16, *size)])([torch.randn(3, 16, *size)]).shape == (3, 1)
    two = Discriminator([(4, 2 * size[0], 2 * size[1]), (16, *size)])
    assert two([torch.randn(3, 4, 2 * size[0], 2 * size[1]), torch.randn(3, 16, *size)]).shape == (3, 2)


def test_the_heads_weights_depend_on_its_seed_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    a, b, c = (next(new_discriminator([(8, 4, 4)], seed).parameters()) for seed in (0, 0, 1))
    assert torch.equal(a, b) and not torch.equal(a, c) and torch.equal(before, torch.get_rng_state())


def test_features_are_the_networks_innermost_and_carry_gradients() -> None:
    denoiser = unet_denoiser(0)
    z, y = batch(2)
    z.requires_grad_()
    seen: list[Tensor] = []
    handle = denoiser.net.mid_block.register_forward_hook(lambda _m, _i, out: seen.append(out))
    denoiser(z, torch.tensor([5, 900]), y)
    handle.remove()
    (features,) = activations(denoiser, z, torch.tensor([5, 900]), y)
    assert torch.equal(features, seen[0])
    after: list[Tensor] = []
    denoiser.net.conv_out.register_forward_hook(lambda _m, _i, out: after.append(out))
    assert torch.equal(activations(denoiser, z, torch.tensor([5, 900]), y)[0], features) and not after
    features.sum().backward()
    assert z.grad is not None and z.grad.abs().max() > 0
    assert denoiser.net.conv_in.weight.grad.abs().max() > 0 and denoiser.net.conv_out.weight.grad is None


def test_the_encoders_features_are_those_of_each_resolution_before_it_is_halved() -> None:
    """What the decoder is handed at each of them, and the middle: of the whole pass, though the pass ends early."""
    denoiser = unet_denoiser(0)
    z, y = batch(2)
    given: list[tuple[Tensor, ...]] = []
    handles = [
        block.register_forward_hook(lambda _m, _i, out: given.append(out[1])) for block in denoiser.net.down_blocks
    ]
    denoiser(z, torch.tensor([5, 900]), y)
    for handle in handles:
        handle.remove()
    *levels, middle = activations(denoiser, z, torch.tensor([5, 900]), y, "encoder")
    assert [f.shape[-1] for f in levels] == [8, 4] and middle.shape[-1] == 4
    for level, handed in zip(levels, given, strict=True):
        assert torch.equal(level, [h for h in handed if h.shape == level.shape][-1])
    assert torch.equal(middle, activations(denoiser, z, torch.tensor([5, 900]), y)[0])


def test_images_are_told_apart_at_small_noise_alone_where_that_is_asked_for(
    params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    m = method(params, gan={"t_max": 0.03, "features": "encoder"})
    nets = networks(m)
    assert nets.discriminator is not None and len(nets.discriminator.heads) == 3
    seen: list[Tensor] = []
    monkeypatch.setattr(dmd2, "activations", lambda d, x, t, c, w: seen.append(t) or activations(d, x, t, c, w))
    for seed in range(20):
        m.critic_gan(nets, *batch(), draws(seed))  # type: ignore[attr-defined]
        m.generator_gan(nets, *batch(), draws(seed, turn="generator"))  # type: ignore[attr-defined]
    assert torch.cat(seen).max() == 29 and torch.cat(seen).min() == 0


def test_heads_on_the_image_see_the_noised_image_and_nothing_else(
    params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither critic nor teacher makes a pass for them, and the gradient reaches the generated image directly."""
    m = method(params, gan={"t_max": 0.03, "features": "image", "weight": 1.0})
    nets = networks(m)
    assert nets.discriminator is not None and len(nets.discriminator.heads) == 1
    monkeypatch.setattr(dmd2, "activations", lambda *_: pytest.fail("a pass through the critic"))
    x, y = batch(4)
    x.requires_grad_(True)
    m.generator_gan(nets, x, y, draws(0, 4, "generator"))["gan_weighted"].backward()  # type: ignore[attr-defined]
    t = draws(0, 4, "generator").integers(0, 30)
    given = m.noised(nets, x.detach(), draws(0, 4, "generator"))  # type: ignore[attr-defined]
    assert torch.equal(given[1], t)
    x_t = given[0].requires_grad_(True)
    generator_gan_loss(nets.discriminator([x_t])).backward()
    assert x.grad is not None and x_t.grad is not None and x_t.grad.abs().max() > 0
    alpha = nets.critic.process.alpha(t).view(-1, 1, 1, 1)
    torch.testing.assert_close(x.grad, (alpha * x_t.grad).float(), rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("name", ["dmd2", "f_distill"])
@pytest.mark.parametrize("turn", ["critic", "generator"])
def test_an_adversarial_turn_moves_its_own_network_only(params: Params, turn: str, name: str) -> None:
    """The generator's gradient passes through critic and head; neither may keep any of it."""
    m = method(params, name, gan={"weight": 1.0, "critic_weight": 1.0, "r1_weight": 1.0})
    nets = networks(m)
    parts = {"teacher": nets.teacher, "generator": nets.generator, "critic": nets.critic, "head": nets.discriminator}
    before = {n: {k: v.clone() for k, v in p.state_dict().items()} for n, p in parts.items() if p is not None}
    with nets.only_training(turn) as learner:
        loss = m.phases(train_cfg(params))[-1].loss(turn, nets, *batch(), draws())["total"]
        optimizer_step(torch.optim.SGD(learner.parameters(), lr=0.1), learner, loss, 0.1, 1e9, "loss")
    moved = {n for n, p in parts.items() if p and any((v != before[n][k]).any() for k, v in p.state_dict().items())}
    assert moved == ({"critic", "head"} if turn == "critic" else {"generator"})
    others = [p for n, p in parts.items() if n not in moved and p is not None]
    assert all(q.grad is None for p in others for q in p.parameters())


def test_the_gan_reaches_the_generator_and_lowers_its_own_loss(params: Params) -> None:
    """A step against the GAN's gradient makes the generator's images look more real to the same head."""
    m = method(params, gan={"weight": 1.0})
    nets = networks(m)
    z, y = batch(32)

    def gan() -> Tensor:
        x = generate(nets.generator, z, (999,), y)
        return m.generator_gan(nets, x, y, draws(1, 32))["gan_weighted"]  # type: ignore[attr-defined]

    first = gan()
    optimizer_step(torch.optim.SGD(nets.generator.parameters(), lr=1.0), nets.generator, first, 0.5, 1e9, "gan")
    assert gan().item() < first.item()


@pytest.mark.parametrize("features", ["innermost", "image"])
def test_the_discriminator_learns_to_tell_real_from_generated(params: Params, features: str) -> None:
    m = method(params, gan={"critic_weight": 1.0, "features": features})
    nets = networks(m)
    critic = nets.trained_in("critic")
    optimizer = torch.optim.AdamW(critic.parameters(), lr=3e-3)
    z, y = batch(32)
    x = torch.full_like(z, -1.0)  # nothing like a digit
    for step in range(30):
        losses = m.critic_gan(nets, x, y, draws(step, 32))  # type: ignore[attr-defined]
        optimizer_step(optimizer, critic, losses["gan_weighted"], 3e-3, 1e9, "gan")
    assert losses["accuracy"].item() > 0.75


def test_real_images_are_judged_with_their_own_labels(params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the generated ones, drawn for themselves, would make a mismatch the sign of a real image."""
    m = method(params, gan={"r1_weight": 1.0})
    nets = networks(m)
    told: list[Tensor | None] = []
    monkeypatch.setattr(dmd2, "activations", lambda d, x, t, c, w: told.append(c) or activations(d, x, t, c, w))
    x, y = batch(32)
    m.critic_gan(nets, x, y, draws(0, 32))  # type: ignore[attr-defined]
    of_fake, of_real, of_nudged = told
    _, labels = m.data.draw(draws(0, 32), x)
    assert torch.equal(of_fake, y) and torch.equal(of_real, labels) and torch.equal(of_nudged, labels)
    assert not torch.equal(labels, y)


def test_real_and_generated_are_noised_at_times_of_their_own(params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    m = method(params)
    nets = networks(m)
    seen: list[tuple[Tensor, Tensor]] = []
    monkeypatch.setattr(dmd2, "activations", lambda d, x, t, c, w: seen.append((t, c)) or activations(d, x, t, c, w))
    for seed in range(40):
        m.critic_gan(nets, *batch(), draws(seed))  # type: ignore[attr-defined]
    fake, real = torch.cat([t for t, _ in seen[::2]]), torch.cat([t for t, _ in seen[1::2]])
    assert not torch.equal(fake, real)
    for t in (fake, real):
        assert t.min() < 30 and t.max() > 970


def test_f_distill_weighs_samples_by_the_jensen_shannon_divergence(
    params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """h(r) = r / (1 + r) = sigmoid(logit), over its value at r = 1; of several heads their mean logit."""
    m = method(params, "f_distill")
    logits = torch.tensor([0.0, 1.0, -2.0, 1.5, 0.3, -0.7])
    monkeypatch.setattr(m, "logits", lambda *_: torch.stack([logits - 1, logits + 1], dim=1))
    grad = torch.randn(6, 1, 8, 8)
    got = m.reweight(grad, networks(m), grad, torch.zeros(6), None)  # type: ignore[attr-defined]
    torch.testing.assert_close(got, grad * (torch.sigmoid(logits) / 0.5).reshape(6, 1, 1, 1))


def test_f_distill_weighs_nothing_before_its_discriminator_learns(params: Params) -> None:
    """In the phase without the GAN it is DMD2, to the bit: a head that has seen nothing says nothing."""
    losses = {}
    for name in ("dmd2", "f_distill"):
        m = method(params, name, gan={"from_turn": 4})
        nets = networks(m)
        before, adversarial = m.phases(train_cfg(params))
        losses[name] = [p.loss("generator", nets, *batch(), draws())["dm"] for p in (before, adversarial)]
    assert losses["dmd2"][0] == losses["f_distill"][0] and losses["dmd2"][1] != losses["f_distill"][1]


def test_two_phases_begin_the_second_from_the_best_generator_at_lower_rates(params: Params) -> None:
    m = method(params, gan={"from_turn": 4, "lr_factor": 0.1}, critic_turns=2)
    cfg = train_cfg(params)
    first, second = m.phases(cfg)
    assert (first.name, first.generator_turns, second.name, second.generator_turns) == ("distill", 4, "adversarial", 2)
    assert second.starts_from_best and second.turns[-1].lr == pytest.approx(0.1 * cfg.lr_generator)
    state = TrainState(networks(m), cfg)
    for row in train(state, m, cfg, (1, 8, 8), REAL.labels, alone()):
        if row["turn"] == 2:
            state.keep_if_best(20000, 1.0, 0.0)
            best = state.best.weights
        if row["turn"] == 4:
            break
    state.enter(second)
    assert all(torch.equal(v, best[k]) for k, v in state.nets.generator.state_dict().items())
    rows = list(train(state, m, cfg, (1, 8, 8), REAL.labels, alone()))
    assert [r["phase"] for r in rows] == ["adversarial"] * 2
    assert {"critic_gan", "critic_accuracy", "generator_gan"} <= rows[0].keys()


def test_with_the_gan_from_the_start_there_is_one_phase_at_full_rates(params: Params) -> None:
    cfg = train_cfg(params)
    (only,) = method(params, gan={"from_turn": 0, "lr_factor": 0.1}).phases(cfg)
    assert only.name == "adversarial" and not only.starts_from_best and only.turns[-1].lr == cfg.lr_generator


@pytest.mark.parametrize(("from_turn", "learns"), [(0, True), (3, False)])
def test_the_discriminator_learns_while_the_critic_catches_up(params: Params, from_turn: int, learns: bool) -> None:
    """Where the GAN begins at once: an untaught discriminator would tell the generator noise."""
    warm = params.train.warm_start.model_copy(update={"turns": 0, "critic_turns": 3})
    m = method(params, gan={"from_turn": from_turn})
    first = m.phases(train_cfg(params).model_copy(update={"warm_start": warm}))[0]
    assert first.name == "catch_up"
    losses = first.loss("critic", networks(m), *batch(), draws())
    assert ("gan" in losses) == learns


def test_steps_are_spread_over_the_range() -> None:
    assert (
        step_times(999, 4) == (999, 749, 499, 249) and step_times(399, 1) == (399,) and step_times(399, 2) == (399, 199)
    )


def test_several_steps_noise_each_prediction_anew() -> None:
    """Written out: x0 from pure noise, then alpha x0 + sigma z_k at the next time, predicted again."""
    g, z, y = toy_denoiser(), torch.randn(5, 3, 1, 8, 8), torch.arange(5)
    x = g(z[:, 0], torch.full((5,), 999), y)
    for k, t in ((1, 600), (2, 200)):
        time = torch.full((5,), t)
        x = g(g.process.add_noise(x, z[:, k], time), time, y)
    assert torch.equal(generate(g, z, (999, 600, 200), y), x)


def test_backward_simulation_is_the_samplers_own_trajectory_and_only_its_last_step_has_gradient(params: Params) -> None:
    m = method(params, steps=4, gan={"weight": 0.0})
    nets = networks(m)
    z, y = torch.randn(3, 4, 1, 8, 8), torch.arange(3)
    ends = set()
    for seed in range(30):
        last = draws(seed, 3).common_integer(4)
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
def test_under_autocast_the_last_of_several_steps_has_every_gradient(params: Params, last: int) -> None:
    """The weights cast in the steps before it, which have no gradient, must not be taken for those of the last."""
    m = method(params, steps=4, gan={"weight": 0.0})
    nets = networks(m)
    seed = next(s for s in range(100) if draws(s, 3).common_integer(4) == last)
    with nets.only_training("generator") as learner, torch.autocast("cpu", torch.bfloat16):
        losses = m.loss("generator", nets, torch.randn(3, 4, 1, 8, 8), torch.arange(3), draws(seed, 3))
    losses["total"].backward()
    assert [name for name, p in learner.named_parameters() if p.grad is None or not p.grad.any()] == []


def follow(teacher: Denoiser, x: Tensor, first: int, labels: Tensor | None) -> Tensor:
    """DDIM written out: ten steps from index `first`, evenly spread."""
    process, x0 = teacher.process, x
    for k in range(10):
        now, then = (torch.full((len(x),), round((first + 1) * (1 - j / 10)) - 1) for j in (k, k + 1))
        x0 = teacher(x, now, labels)
        a, s = (v(now).reshape(-1, 1, 1, 1).float() for v in (process.alpha, process.sigma))
        if k < 9:
            x = process.add_noise(x0, (x - a * x0) / s, then)
    return x0


def test_the_warm_start_of_several_steps_keeps_every_step_at_its_task(params: Params) -> None:
    """The first step against the pairs; a later one against where the teacher leads from what it is shown."""
    pairs = Pairs(torch.randn(12, 1, 8, 8), torch.randn(12, 1, 8, 8), torch.arange(12) % 10)
    cfg = params.method.model_copy(update={"steps": 4})
    m = METHODS["dmd"](cfg, 1000, pairs, REAL)
    nets, seen = networks(method(params)), set()
    for seed in range(30):
        loss = m._warm_start("generator", nets, torch.empty(0), None, draws(seed))["total"]  # type: ignore[attr-defined]
        rng = draws(seed)
        drawn, k = draw_pairs(pairs, rng), rng.common_integer(4)
        t = torch.full((len(drawn.x),), (999, 749, 499, 249)[k])
        process = nets.generator.process
        x_t = process.prior(drawn.z, t) if k == 0 else process.add_noise(drawn.x, rng.noise(1, 8, 8), t)
        target = drawn.x if k == 0 else follow(nets.teacher, x_t, int(t[0]), drawn.labels)
        assert loss.item() == pytest.approx(F.mse_loss(nets.generator(x_t, t, drawn.labels), target).item(), rel=1e-5)
        seen.add(k)
    assert seen == {0, 1, 2, 3}
