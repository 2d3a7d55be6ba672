"""A discriminator on frozen trunks trains in turns of its own, and nothing else changes in them."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from dmd.config import Params, TrainConfig
from dmd.distillation.gan.adversary import discriminator_loss, generator_loss
from dmd.distillation.methods import METHODS, Method
from dmd.distillation.networks import freeze_spatial
from dmd.distillation.phases import Phase
from dmd.distillation.state import TrainState
from dmd.distillation.trainer import train
from tests.helpers.gan.trunks import FROZEN, all_weights, trunk_method, trunk_networks
from tests.helpers.sources import split
from tests.helpers.training import alone, batch, draws, gan_method, gan_networks, short_training

PENALTIES = {"trunk_r1_weight": 0.1, "trunk_r2_weight": 0.1, "penalty_every": 2}


def changes_by_turn(m: Method, cfg: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, set[str]]]:
    """The name of each turn, and the networks whose weights it changed."""
    nets = trunk_networks(m)
    turns, before = list[str](), list[dict[str, Tensor]]()

    def spy(phase: Phase) -> Phase:
        def loss(turn: str, *args: Any) -> dict[str, Tensor]:
            turns.append(turn)
            before.append(all_weights(nets))
            return phase.loss(turn, *args)

        return replace(phase, loss=loss)

    phases = tuple(spy(phase) for phase in m.phases(cfg))
    monkeypatch.setattr(m, "phases", lambda _cfg: phases)
    list(train(TrainState(nets, cfg), m, cfg, (1, 8, 8), split().labels, alone()))
    changed = [
        {k.split(".")[0] for k in after if not torch.equal(weights[k], after[k])}
        for weights, after in pairwise([*before, all_weights(nets)])
    ]
    return list(zip(turns, changed, strict=True))


def test_gdd_takes_one_discriminator_turn_for_each_generator_turn(
    params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The warm-up and the lazy penalty leave the generator as it is; no turn changes teacher, critic or trunk."""
    m = trunk_method(params, "gdd", {**PENALTIES, "warmup_turns": 3})
    cfg = short_training(params, generator_turns=2, warmup_turns=0)
    d, r, g = (
        ("discriminator", {"discriminator"}),
        ("discriminator_penalty", {"discriminator"}),
        ("generator", {"generator"}),
    )
    assert changes_by_turn(m, cfg, monkeypatch) == [d, d, r, d, d, g, d, r, g]


def test_dmd2_with_a_frozen_trunk_trains_critic_discriminator_and_generator(
    params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    m = trunk_method(params, "dmd2", {"trunks": ["critic", FROZEN], "critic_weight": 1.0}, critic_turns=2)
    cfg = short_training(params, generator_turns=2, warmup_turns=0)
    critic = ("critic", {"critic", "critic_heads"})
    step = [critic, critic, ("discriminator", {"discriminator"}), ("generator", {"generator"})]
    assert changes_by_turn(m, cfg, monkeypatch) == step * 2


@pytest.mark.parametrize("name", ["gdd", "dmd2"])
def test_trunks_are_in_no_optimizer_average_or_checkpoint(params: Params, name: str) -> None:
    m = trunk_method(params, name)
    state = TrainState(trunk_networks(m), short_training(params))
    trunk = {id(p) for p in m.frozen[FROZEN].parameters()}
    optimized = {id(p) for o in state.optimizers.values() for group in o.param_groups for p in group["params"]}
    assert trunk and not trunk & optimized and set(state.optimizers) == set(state.nets.trained)
    assert state.nets.trained == (
        ("generator", "discriminator") if name == "gdd" else ("generator", "critic", "discriminator")
    )
    saved = state.state_dict()
    assert {k.split(".")[0] for k in saved["discriminator"]} == {"heads"}


def test_frozen_parts_of_the_generator_stay_as_they_are(params: Params) -> None:
    """GDD-I: they are in no optimizer, and weight decay does not shrink them; those of the average are the same."""
    m, cfg = trunk_method(params, "gdd"), short_training(params, generator_turns=3, warmup_turns=0)
    nets = trunk_networks(m)
    freeze_spatial(nets.generator)
    before = {k: v.clone() for k, v in nets.generator.state_dict().items()}
    state = TrainState(nets, cfg)
    learning = {k for k, p in nets.generator.named_parameters() if p.requires_grad}
    frozen = {id(p) for p in nets.generator.parameters() if not p.requires_grad}
    assert frozen and not frozen & {id(p) for g in state.optimizers["generator"].param_groups for p in g["params"]}
    list(train(state, m, cfg, (1, 8, 8), split().labels, alone()))
    for net in (nets.generator, state.averages[20000]):
        assert {k for k, v in net.state_dict().items() if not torch.equal(v, before[k])} == learning
    assert state.state_dict()["generator"].keys() == before.keys() - {
        k for k, p in nets.generator.named_parameters() if not p.requires_grad
    }


def test_a_phase_from_the_best_generator_takes_back_the_discriminator_too(params: Params) -> None:
    m = trunk_method(params, "dmd2", {"trunks": ["critic", FROZEN], "mixing": "channels"}, critic_average=0.9)
    cfg = short_training(params, generator_turns=3)
    state = TrainState(trunk_networks(m), cfg)
    rows = train(state, m, cfg, (1, 8, 8), split().labels, alone())
    next(rows)
    state.keep_if_best(20000, [1.0, 1.0], 0.0, whole=True)
    kept = all_weights(state.nets)
    list(rows)
    changed = {k.split(".")[0] for k, v in all_weights(state.nets).items() if not torch.equal(v, kept[k])}
    assert changed == {"generator", "critic", "critic_heads", "critic_average", "discriminator"}
    state.enter(replace(m.phases(cfg)[-1], starts_from_best=True))
    assert all(torch.equal(v, kept[k]) for k, v in all_weights(state.nets).items())
    assert not state.optimizers["discriminator"].state


def test_each_network_has_its_own_betas(params: Params) -> None:
    state = TrainState(trunk_networks(trunk_method(params, "dmd2")), short_training(params))
    betas = {name: list(o.param_groups[0]["betas"]) for name, o in state.optimizers.items()}
    assert betas == {"generator": [0.9, 0.999], "critic": [0.9, 0.999], "discriminator": [0.0, 0.99]}


def test_random_mixing_comes_back_from_a_checkpoint(params: Params) -> None:
    """A run that was started with another seed of the mixing goes on with the mixing that its heads were trained on."""
    m, cfg = trunk_method(params, "gdd", {"mixing": "channels"}), short_training(params)
    first, second = TrainState(trunk_networks(m), cfg), TrainState(trunk_networks(m), cfg)
    assert first.nets.discriminator is not None and second.nets.discriminator is not None
    mixing = first.nets.discriminator.heads[0].mixing.channels0  # type: ignore[union-attr]
    mixing.add_(1)  # type: ignore[operator]
    second.load_state_dict(first.state_dict())
    assert torch.equal(second.nets.discriminator.heads[0].mixing.channels0, mixing)  # type: ignore[union-attr]


@pytest.mark.parametrize("trunk", [FROZEN, "teacher"])
def test_without_weight_the_gradient_is_that_of_distribution_matching(params: Params, trunk: str) -> None:
    """The trunk's GAN loss adds nothing to DMD's gradient at weight 0, and something at weight 1."""

    def gradient(weight: float) -> list[Tensor]:
        m = trunk_method(params, "dmd2", {"weight": weight, "trunks": [trunk]})
        nets = trunk_networks(m)
        nets.critic.load_state_dict(gan_networks(gan_method(params)).critic.state_dict())
        z, y = batch()
        with nets.only_training("generator"):
            m.adversarial_loss("generator", nets, z, y, draws())["total"].backward()  # type: ignore[attr-defined]
        return [p.grad.clone() for p in nets.generator.parameters() if p.grad is not None]

    plain = trunk_method(params, "dmd2", {"weight": 0.0, "trunks": [trunk]})
    nets = trunk_networks(plain)
    nets.critic.load_state_dict(gan_networks(gan_method(params)).critic.state_dict())
    z, y = batch()
    rng = draws()
    x = plain.generate("generator", nets, z, y, rng)  # type: ignore[attr-defined]
    with nets.only_training("generator"):
        plain.generator_loss(nets, x, y, rng)["total"].backward()  # type: ignore[attr-defined]
    expected = [p.grad.clone() for p in nets.generator.parameters() if p.grad is not None]
    assert all(torch.equal(a, b) for a, b in zip(gradient(0.0), expected, strict=True))
    assert any(not torch.allclose(a, b) for a, b in zip(gradient(1.0), expected, strict=True))


@pytest.mark.parametrize("trunk", [FROZEN, "teacher", "teacher:encoder"])
def test_gradients_reach_the_image_and_no_trunk(params: Params, trunk: str) -> None:
    m = trunk_method(params, "gdd", {"trunks": [trunk]})
    nets = trunk_networks(m)
    assert nets.discriminator is not None
    x, y = batch()
    x.requires_grad_()
    with nets.only_training("generator"):
        generator_loss(nets.discriminator, x, None, y, draws(), m.cfg.gan)["total"].backward()
    assert x.grad is not None and x.grad.flatten(1).abs().sum(dim=1).min() > 0
    frozen = [*nets.teacher.parameters(), *m.frozen[FROZEN].parameters(), *nets.discriminator.parameters()]
    assert all(p.grad is None for p in frozen)


def test_the_teachers_trunk_sees_noise_levels_in_its_range(params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    m = trunk_method(params, "gdd", {"trunks": ["teacher"], "t_min": 0.1, "t_max": 0.2})
    nets, seen = trunk_networks(m), list[Tensor]()
    run = nets.teacher.run
    monkeypatch.setattr(nets.teacher, "run", lambda net, x, t, cond: seen.append(t) or run(net, x, t, cond))
    assert nets.discriminator is not None
    for seed in range(20):
        nets.discriminator(*batch(), draws(seed))
    assert torch.cat(seen).min() >= 100 and 190 <= torch.cat(seen).max() < 200


def test_a_relativistic_loss_compares_images_of_one_label(params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    m = trunk_method(params, "gdd", {"loss": "relativistic"})
    nets, used = trunk_networks(m), list[Tensor]()
    generate = m.generate  # type: ignore[attr-defined]

    def spy(network: str, nets: object, z: Tensor, cond: Tensor, rng: object) -> Tensor:
        used.append(cond)
        return generate(network, nets, z, cond, rng)

    monkeypatch.setattr(m, "generate", spy)
    z, y = batch()
    for turn in ("discriminator", "generator"):
        m.loss(turn, nets, z, y, draws(turn=turn))
        assert torch.equal(used.pop(), m.data.draw(draws(turn=turn), z)[1])


def test_labels_move_the_logits_of_a_conditional_discriminator(params: Params) -> None:
    nets = trunk_networks(trunk_method(params, "gdd"))
    assert nets.discriminator is not None
    for head in nets.discriminator.heads[0].heads:  # type: ignore[union-attr]
        torch.nn.init.normal_(head.embedding.weight)  # type: ignore[union-attr]
    x, y = batch()
    a, b = (nets.discriminator(x, labels, draws())[FROZEN] for labels in (y, (y + 1) % 10))
    assert all(not torch.allclose(one, other) for one, other in zip(a, b, strict=True))


def test_a_weight_for_each_frozen_trunk_or_none(params: Params) -> None:
    gan = params.method.gan.model_copy(update={"trunks": ["critic", FROZEN], "trunk_weights": [1.0, 2.0]})
    problems = METHODS["dmd2"].check_params(params.method.model_copy(update={"gan": gan}))
    assert problems == [
        "method.gan.trunk_weights: 2 numbers for the frozen trunks (efficientnet_lite1); give one for each, or []"
    ]


@pytest.mark.parametrize("loss", ["logistic", "hinge", "relativistic"])
def test_parts_of_a_batch_give_the_gradient_of_the_whole(params: Params, loss: str) -> None:
    m = trunk_method(params, "gdd", {"loss": loss, "augment": True, "mixing": "channels"})
    nets = trunk_networks(m)
    assert nets.discriminator is not None
    discriminator = nets.discriminator
    (data, y), fake = batch(8), batch(8)[0].flip(0)

    def gradient(parts: int) -> Tensor:
        discriminator.zero_grad()
        for i in range(parts):
            part = slice(i * 8 // parts, (i + 1) * 8 // parts)
            rng = draws(n=8)
            rng.samples = range(8)[part]
            losses = discriminator_loss(discriminator, data[part], fake[part], y[part], rng, m.cfg.gan)
            (losses["total"] / parts).backward()
        return torch.cat([p.grad.flatten() for p in discriminator.parameters() if p.grad is not None])

    torch.testing.assert_close(gradient(4), gradient(1), rtol=1e-3, atol=1e-6)


def test_the_log_has_accuracy_gap_and_share_of_each_trunk(params: Params) -> None:
    m = trunk_method(params, "gdd", {"trunks": [FROZEN, "teacher:encoder"]})
    cfg = short_training(params, generator_turns=2)
    row = list(train(TrainState(trunk_networks(m), cfg), m, cfg, (1, 8, 8), split().labels, alone()))[-1]
    for name in (FROZEN, "teacher_encoder"):
        assert 0 <= row[f"discriminator_accuracy_{name}"] <= 1
        assert f"discriminator_gap_{name}" in row and 0 < row[f"generator_share_{name}"] < 1
    assert sum(row[f"generator_share_{n}"] for n in (FROZEN, "teacher_encoder")) == pytest.approx(1)
    assert row["generator_share_teacher_encoder"] > 0
