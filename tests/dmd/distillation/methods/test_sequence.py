"""A second method continues from the best generator of the first (method.then)."""

from typing import Any

import pytest
import torch
from torch import Tensor

from dmd.config import ConfigError, MethodConfig, Params, ThenConfig, validate
from dmd.distillation.methods import METHODS, build_method, check_method
from dmd.distillation.state import TrainState
from dmd.distillation.trainer import train
from dmd.generator.export import LEARNS_BY, describe_training
from dmd.training.random_source import RandomSource
from tests.helpers.gan.matching import matching_method, matching_networks
from tests.helpers.gan.trunks import FROZEN
from tests.helpers.params import with_values
from tests.helpers.sources import reals, split
from tests.helpers.training import NO_PAIRS, alone, short_training

SHAPE = (1, 8, 8)


def then(params: Params, name: str, **changes: object) -> ThenConfig:
    return params.method.then.model_copy(update={"name": name, "generator_turns": 3, "lr_factor": 0.5, **changes})


def result(m: Any, cfg: Any, best: int) -> tuple[list[str], dict[str, Tensor]]:
    """The rows without their phases, and all trained weights, after a run whose generator is kept at turn `best`."""
    nets = matching_networks(m)
    state = TrainState(nets, cfg)
    rows = []
    for row in train(state, m, cfg, SHAPE, split().labels, alone()):
        if row["turn"] == best:
            state.keep_if_best(20000, [1.0, 1.0], 0.0, whole=True)
        rows.append(repr({k: v for k, v in row.items() if k != "phase"}))
    weights = {n: nets.trained_in(n).state_dict() for n in ("generator", "critic", "discriminator")}
    return rows, {f"{n}.{k}": v for n, part in weights.items() for k, v in part.items()}


@pytest.mark.parametrize("trunks", [["critic"], ["critic", FROZEN]])
def test_dmd_and_then_dmd2_equals_dmd2_with_a_late_gan_to_the_bit(params: Params, trunks: list[str]) -> None:
    gan = {**params.method.gan.model_dump(), "trunks": trunks, "weight": 1.0, "warmup_turns": 2, "lr_factor": 0.5}
    cfg = short_training(params, warm=(0, 2), generator_turns=3)
    two = matching_method(params, "dmd", gan=gan, then=then(params, "dmd2").model_dump(), critic_turns=2)
    one = matching_method(params, "dmd2", gan={**gan, "from_turn": 3}, critic_turns=2)
    names = [phase.name for phase in two.phases(cfg)]
    warm_up = ["discriminator_warm_up_2"] if FROZEN in trunks else []
    assert names == ["catch_up", "distill", *warm_up, "adversarial_2"]
    rows, weights = result(two, cfg, best=2)
    expected_rows, expected = result(one, cfg.model_copy(update={"generator_turns": 6}), best=2)
    assert rows == expected_rows and len(rows) == 6
    assert weights.keys() == expected.keys() and all(torch.equal(weights[k], expected[k]) for k in expected)


def test_the_second_method_has_its_own_budget_and_rates(params: Params) -> None:
    second = then(params, "fd_loss", generator_batch_size=4, lr_factor=0.1)
    gan = {**params.method.gan.model_dump(), "trunks": [FROZEN]}
    m = matching_method(params, "gdd", then=second.model_dump(), gan=gan)
    cfg = short_training(params, generator_turns=2)
    first, last = m.phases(cfg)
    assert (first.name, first.generator_turns, first.starts_from_best) == ("adversarial", 2, False)
    assert (last.name, last.generator_turns, last.starts_from_best) == ("fd_2", 3, True)
    (turn,) = last.turns
    assert (turn.batch_size, turn.lr) == (4, cfg.lr_generator * 0.1)
    nets = matching_networks(m)
    assert nets.critic.net is nets.teacher.net  # no method has a critic
    assert nets.discriminator is not None and nets.estimators is not None


def test_both_methods_drop_conditions(params: Params) -> None:
    second = then(params, "dmd2").model_dump()
    m: Any = matching_method(params, "dmd", then=second, condition_dropout=0.5)
    matching_networks(m)
    labels = torch.zeros(200, dtype=torch.long)
    for one in m.methods:
        dropped = one.drop_conditions(labels, RandomSource(0, 0, "critic", range(200))) == one.null
        assert 0.4 < dropped.double().mean().item() < 0.6


def test_fd_loss_begins_from_the_kept_generator(params: Params) -> None:
    """The running moments are those of the networks that the second phase takes back."""
    m = matching_method(params, "dmd", then=then(params, "fd_loss", generator_turns=1).model_dump(), critic_turns=1)
    cfg = short_training(params, generator_turns=3)
    state = TrainState(matching_networks(m), cfg)
    at_two, at_begin = dict[str, Tensor](), dict[str, Tensor]()
    fd = m.methods[1]  # type: ignore[attr-defined]
    begin = fd.begin

    def spy(nets: Any, draw: Any) -> None:
        at_begin.update({k: v.clone() for k, v in nets.generator.state_dict().items()})
        begin(nets, draw)

    fd.begin = spy
    for row in train(state, m, cfg, SHAPE, split().labels, alone()):
        if row["turn"] == 2:
            state.keep_if_best(20000, [1.0, 1.0], 0.0, whole=True)
            at_two.update({k: v.clone() for k, v in state.nets.generator.state_dict().items()})
    assert state.turn == 4 and at_begin and all(torch.equal(v, at_two[k]) for k, v in at_begin.items())


def test_a_critic_that_the_first_method_lacks_catches_up(params: Params) -> None:
    gan = {**params.method.gan.model_dump(), "trunks": [FROZEN]}
    m = matching_method(params, "gdd", gan=gan, then=then(params, "dmd", critic_turns=4).model_dump())
    phases = m.phases(short_training(params, warm=(0, 9), generator_turns=2))
    names = [(p.name, p.steps, p.starts_from_best) for p in phases]
    assert names == [("adversarial", 2, False), ("catch_up_2", 4, True), ("distill_2", 15, False)]
    nets = matching_networks(m)
    assert nets.critic is not nets.teacher and nets.trained == ("generator", "critic", "discriminator")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"then": {"name": "fd_loss"}}, "method.moments.networks: fd_loss needs a network"),
        ({"then": {"name": "gdd", "critic_turns": 3}}, "method.then.critic_turns: gdd has no critic; use 0"),
    ],
)
def test_the_second_method_is_checked_too(params: Params, changes: dict[str, Any], words: str) -> None:
    second = params.method.then.model_copy(update=changes["then"])
    gan = params.method.gan.model_copy(update={"trunks": ["teacher"]})
    with pytest.raises(ConfigError) as error:
        check_method(with_values(params, method={"then": second, "gan": gan}))
    assert str(error.value).splitlines() == [str(error.value)] and str(error.value).startswith(words)


def test_an_unknown_second_method_names_the_known_ones(params: Params) -> None:
    raw = params.model_dump(by_alias=True)
    raw["method"]["then"]["name"] = "dmd3"
    with pytest.raises(ConfigError, match=r"method.then.name: 'dmd3' is not a method \(one of none, dmd, "):
        validate(raw, "params.yaml")


def test_the_first_method_must_be_validated(params: Params) -> None:
    """The warm start has 2,000 turns, so that of 80 later turns at an interval of 90 the 70th is validated."""
    for turns, every, is_error in ((80, 90, False), (60, 90, True), (60, 30, False)):
        budget = {"generator_turns": turns, "validate_every": every}
        run = with_values(params, method={"then": then(params, "dmd2")}, train=budget)
        raw = run.model_dump(by_alias=True)
        if not is_error:
            validate(raw, "params.yaml")
            continue
        with pytest.raises(ConfigError, match=r"method.then.name: dmd2 starts from the best generator, but no validat"):
            validate(raw, "params.yaml")


def test_one_method_is_no_sequence(params: Params) -> None:
    m = build_method(params.method, 1000, NO_PAIRS, reals())
    assert type(m).__name__ == "DMD"


def test_the_card_names_both_methods(params: Params) -> None:
    cfg = MethodConfig(**{**params.method.model_dump(), "then": then(params, "fd_loss").model_dump()})
    text = describe_training(cfg, short_training(params, generator_turns=20))
    assert cfg.title == "dmd, then fd_loss" and params.method.title == "dmd"
    assert text.endswith("20 turns of distribution matching, then 3 turns of FD-loss")


def test_the_card_names_turns_of_the_critic_only_for_methods_with_one(params: Params) -> None:
    """A second method has critic turns of its own; a first one without a critic ignores those of the warm start."""
    assert {name for name, kind in METHODS.items() if not kind.has_critic} == set(LEARNS_BY)
    train = short_training(params, (2, 7), generator_turns=20)
    start = "a warm start of 2 turns of regression on the teacher's pairs, then "
    cases = {
        ("dmd", "none"): "7 turns of the critic alone, then 20 turns of distribution matching",
        ("gdd", "none"): "20 turns of adversarial training",
        ("gdd", "dmd"): "20 turns of adversarial training, then 5 turns of the critic alone, then 3 turns of "
        "distribution matching",
    }
    for (first, second), text in cases.items():
        changes = {"name": first, "then": then(params, second, critic_turns=5)}
        assert describe_training(params.method.model_copy(update=changes), train) == start + text
