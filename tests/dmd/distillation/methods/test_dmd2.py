"""The GAN loss of DMD2 and f-distill trains the right networks, at the right noise levels, labels and phases."""

from itertools import islice

import pytest
import torch
from torch import Tensor

from dmd.config import Params, TrainConfig
from dmd.distillation.gan.activations import activations
from dmd.distillation.losses import generator_gan_loss
from dmd.distillation.methods import dmd2
from dmd.distillation.methods.dmd import Score
from dmd.distillation.state import TrainState
from dmd.distillation.trainer import train
from dmd.samplers.few_step import generate
from dmd.training.optim import optimizer_step
from tests.helpers.sources import reals
from tests.helpers.training import alone, batch, draws, short_training
from tests.helpers.training import gan_method as method
from tests.helpers.training import gan_networks as networks


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


def test_t_max_limits_the_noise_levels_of_the_discriminator(params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    m = method(params, gan={"t_max": 0.03, "trunks": ["critic:encoder"]})
    nets = networks(m)
    assert nets.critic_heads is not None and len(nets.critic_heads.heads) == 3
    calls: list[Tensor] = []
    monkeypatch.setattr(dmd2, "activations", lambda d, x, t, c, w: calls.append(t) or activations(d, x, t, c, w))
    for seed in range(20):
        m.critic_gan(nets, *batch(), draws(seed))  # type: ignore[attr-defined]
        m.generator_gan(nets, *batch(), draws(seed, turn="generator"))  # type: ignore[attr-defined]
    assert torch.cat(calls).max() == 29 and torch.cat(calls).min() == 0


def test_a_head_on_images_reads_only_the_noised_image(params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    """Critic and teacher make no pass, and the gradient reaches the generated image directly."""
    m = method(params, gan={"t_max": 0.03, "trunks": ["image"], "weight": 1.0})
    nets = networks(m)
    assert nets.critic_heads is not None and len(nets.critic_heads.heads) == 1
    monkeypatch.setattr(dmd2, "activations", lambda *_: pytest.fail("a pass through the critic"))
    x, y = batch(4)
    x.requires_grad_(True)
    m.generator_gan(nets, x, y, draws(0, 4, "generator"))["gan_weighted"].backward()  # type: ignore[attr-defined]
    t = draws(0, 4, "generator").integers(0, 30)
    given = m.add_noise(nets, x.detach(), draws(0, 4, "generator"))  # type: ignore[attr-defined]
    assert torch.equal(given[1], t)
    x_t = given[0].requires_grad_(True)
    generator_gan_loss(nets.critic_heads([x_t])).backward()
    assert x.grad is not None and x_t.grad is not None and x_t.grad.abs().max() > 0
    alpha = nets.critic.process.alpha(t).view(-1, 1, 1, 1)
    torch.testing.assert_close(x.grad, (alpha * x_t.grad).float(), rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("name", ["dmd2", "f_distill"])
@pytest.mark.parametrize("turn", ["critic", "generator"])
def test_an_adversarial_turn_changes_only_its_own_network(params: Params, turn: str, name: str) -> None:
    """The generator's gradient passes through critic and head, which accumulate none."""
    m = method(params, name, gan={"weight": 1.0, "critic_weight": 1.0, "r1_weight": 1.0})
    nets = networks(m)
    parts = {"teacher": nets.teacher, "generator": nets.generator, "critic": nets.critic, "head": nets.critic_heads}
    before = {n: {k: v.clone() for k, v in p.state_dict().items()} for n, p in parts.items() if p is not None}
    with nets.only_training(turn) as learner:
        loss = m.phases(train_cfg(params))[-1].loss(turn, nets, *batch(), draws())["total"]
        optimizer_step(torch.optim.SGD(learner.parameters(), lr=0.1), learner, loss, 0.1, 1e9, "loss")
    moved = {n for n, p in parts.items() if p and any((v != before[n][k]).any() for k, v in p.state_dict().items())}
    assert moved == ({"critic", "head"} if turn == "critic" else {"generator"})
    others = [p for n, p in parts.items() if n not in moved and p is not None]
    assert all(q.grad is None for p in others for q in p.parameters())


def test_a_step_of_the_generator_lowers_its_gan_loss(params: Params) -> None:
    """One optimizer step makes the images look more real to the same head."""
    m = method(params, gan={"weight": 1.0})
    nets = networks(m)
    z, y = batch(32)

    def gan() -> Tensor:
        x = generate(nets.generator, z, (999,), y)
        return m.generator_gan(nets, x, y, draws(1, 32))["gan_weighted"]  # type: ignore[attr-defined]

    first = gan()
    optimizer_step(torch.optim.SGD(nets.generator.parameters(), lr=1.0), nets.generator, first, 0.5, 1e9, "gan")
    assert gan().item() < first.item()


@pytest.mark.parametrize("trunk", ["critic", "image"])
def test_the_discriminator_learns_to_tell_real_from_generated(params: Params, trunk: str) -> None:
    m = method(params, gan={"critic_weight": 1.0, "trunks": [trunk]})
    nets = networks(m)
    critic = nets.trained_in("critic")
    optimizer = torch.optim.AdamW(critic.parameters(), lr=3e-3)
    z, y = batch(32)
    x = torch.full_like(z, -1.0)  # constant images
    for step in range(30):
        losses = m.critic_gan(nets, x, y, draws(step, 32))  # type: ignore[attr-defined]
        optimizer_step(optimizer, critic, losses["gan_weighted"], 3e-3, 1e9, "gan")
    assert losses["accuracy"].item() > 0.75


def test_real_images_are_classified_with_their_own_labels(params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a label that does not fit its image would reveal a real image."""
    m = method(params, gan={"r1_weight": 1.0})
    nets = networks(m)
    calls: list[Tensor | None] = []
    monkeypatch.setattr(dmd2, "activations", lambda d, x, t, c, w: calls.append(c) or activations(d, x, t, c, w))
    x, y = batch(32)
    m.critic_gan(nets, x, y, draws(0, 32))  # type: ignore[attr-defined]
    fake_labels, real_labels, perturbed_labels = calls
    _, labels = m.data.draw(draws(0, 32), x)
    assert torch.equal(fake_labels, y)
    assert torch.equal(real_labels, labels) and torch.equal(perturbed_labels, labels)
    assert not torch.equal(labels, y)


def test_real_and_generated_images_have_independent_noise_levels(
    params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    m = method(params)
    nets = networks(m)
    calls: list[tuple[Tensor, Tensor]] = []
    monkeypatch.setattr(dmd2, "activations", lambda d, x, t, c, w: calls.append((t, c)) or activations(d, x, t, c, w))
    for seed in range(40):
        m.critic_gan(nets, *batch(), draws(seed))  # type: ignore[attr-defined]
    fake, real = torch.cat([t for t, _ in calls[::2]]), torch.cat([t for t, _ in calls[1::2]])
    assert not torch.equal(fake, real)
    for t in (fake, real):
        assert t.min() < 30 and t.max() > 970


def test_f_distill_weights_samples_for_the_jensen_shannon_divergence(
    params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weight is h(r) / h(1) with h(r) = r / (1 + r) = sigmoid(logit); several heads give their mean logit."""
    m = method(params, "f_distill")
    logits = torch.tensor([0.0, 1.0, -2.0, 1.5, 0.3, -0.7])
    monkeypatch.setattr(m, "logits", lambda *_: torch.stack([logits - 1, logits + 1], dim=1))
    grad = torch.randn(6, 1, 8, 8)
    score = Score(grad, grad, torch.zeros(6), None, grad, grad)
    got = m.reweight(grad, networks(m), score)  # type: ignore[attr-defined]
    torch.testing.assert_close(got, grad * (torch.sigmoid(logits) / 0.5).reshape(6, 1, 1, 1))


def test_f_distill_equals_dmd2_before_its_discriminator_trains(params: Params) -> None:
    """In the phase without the GAN loss, both methods give bit-identical results."""
    losses = {}
    for name in ("dmd2", "f_distill"):
        m = method(params, name, gan={"from_turn": 4})
        nets = networks(m)
        before, adversarial = m.phases(train_cfg(params))
        losses[name] = [p.loss("generator", nets, *batch(), draws())["dm"] for p in (before, adversarial)]
    assert losses["dmd2"][0] == losses["f_distill"][0] and losses["dmd2"][1] != losses["f_distill"][1]


def test_the_second_phase_starts_from_the_best_generator_at_lower_rates(params: Params) -> None:
    m = method(params, gan={"from_turn": 4, "lr_factor": 0.1}, critic_turns=2)
    cfg = train_cfg(params)
    first, second = m.phases(cfg)
    assert (first.name, first.generator_turns, second.name, second.generator_turns) == ("distill", 4, "adversarial", 2)
    assert second.starts_from_best and second.turns[-1].lr == pytest.approx(0.1 * cfg.lr_generator)
    state = TrainState(networks(m), cfg)
    for row in islice(train(state, m, cfg, (1, 8, 8), reals().labels, alone()), 4):
        if row["turn"] == 2:
            state.keep_if_best(20000, [1.0, 1.0], 0.0, whole=True)
    rows = list(train(state, m, cfg, (1, 8, 8), reals().labels, alone()))
    assert [r["phase"] for r in rows] == ["adversarial"] * 2
    assert {"critic_gan", "critic_accuracy", "generator_gan"} <= rows[0].keys()


@pytest.mark.parametrize(("from_turn", "catch_up"), [(0, ("critic",)), (4, ())])
def test_only_phases_with_a_discriminator_read_images(
    params: Params, from_turn: int, catch_up: tuple[str, ...]
) -> None:
    phases = method(params, gan={"from_turn": from_turn}).phases(short_training(params, warm=(0, 2)))
    taken = {p.name: tuple(t.name for t in p.turns if t.name in p.reads_images) for p in phases}
    assert taken == {"catch_up": catch_up, **({"distill": ()} if from_turn else {}), "adversarial": ("critic",)}


def test_a_phase_from_the_best_generator_takes_back_every_network_of_its_turn(params: Params) -> None:
    """The last critic knows the distribution of the last generator. The heads of the GAN are part of the critic."""
    m = method(params, gan={"from_turn": 4}, critic_turns=2)
    cfg = train_cfg(params, ema_half_lives=[10, 20000])
    state = TrainState(networks(m), cfg)
    for row in islice(train(state, m, cfg, (1, 8, 8), reals().labels, alone()), 4):
        if row["turn"] == 2:
            kept = flat(state)
            state.keep_if_best(10, [1.0, 1.0], 0.0, whole=True)
    with torch.no_grad():
        for head in state.nets.critic_heads.heads.parameters():  # type: ignore[union-attr]  # no GAN loss has trained it
            head.add_(1.0)
    assert all(not torch.equal(v, kept[k]) for k, v in flat(state).items() if k.endswith("weight"))
    state.enter(m.phases(cfg)[1])
    assert flat(state).keys() == kept.keys() and all(torch.equal(v, kept[k]) for k, v in flat(state).items())
    assert not state.optimizers["critic"].state


def flat(state: TrainState) -> dict[str, Tensor]:
    """Copies of the weights of generator, critic, discriminator and averages."""
    nets = {"generator": state.nets.generator, "critic": state.nets.trained_in("critic")}
    nets |= {f"average {half_life}": net for half_life, net in state.averages.items()}
    return {f"{name}.{k}": v.clone() for name, net in nets.items() for k, v in net.state_dict().items()}


def test_a_gan_loss_from_the_start_gives_one_phase_at_full_rates(params: Params) -> None:
    cfg = train_cfg(params)
    (only,) = method(params, gan={"from_turn": 0, "lr_factor": 0.1}).phases(cfg)
    assert only.name == "adversarial" and not only.starts_from_best and only.turns[-1].lr == cfg.lr_generator


@pytest.mark.parametrize(("from_turn", "learns"), [(0, True), (3, False)])
def test_the_discriminator_trains_while_the_critic_catches_up(params: Params, from_turn: int, learns: bool) -> None:
    """If the GAN loss acts from the start, the gradient of an untrained discriminator would be noise."""
    warm = params.train.warm_start.model_copy(update={"turns": 0, "critic_turns": 3})
    m = method(params, gan={"from_turn": from_turn})
    first = m.phases(train_cfg(params).model_copy(update={"warm_start": warm}))[0]
    assert first.name == "catch_up"
    losses = first.loss("critic", networks(m), *batch(), draws())
    assert ("gan" in losses) == learns


@pytest.mark.slow
@pytest.mark.parametrize("turn", ["critic", "generator"])
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_compiled_critic_trains_like_an_eager_one(params: Params, turn: str, backend: str) -> None:
    """The gradients of a turn with all losses are equal up to rounding."""
    m = method(params, gan={"weight": 1.0, "critic_weight": 1.0, "r1_weight": 1.0, "trunks": ["critic:encoder"]})
    gradients = []
    for is_compiled in (False, True):
        torch.manual_seed(0)
        nets = networks(m)
        if is_compiled:
            nets.critic.net.compile(backend=backend)
        with nets.only_training(turn) as learner:
            losses = m.phases(train_cfg(params))[-1].loss(turn, nets, *batch(), draws())
            losses["total"].backward()
        gradients.append({name: p.grad for name, p in learner.named_parameters() if p.grad is not None})
    eager, compiled = gradients
    assert eager.keys() == compiled.keys() and len(eager) > 50
    for name, gradient in eager.items():
        torch.testing.assert_close(compiled[name], gradient, rtol=1e-4, atol=1e-6, msg=name)
