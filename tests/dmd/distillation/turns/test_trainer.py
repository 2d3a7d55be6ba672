"""The training loop resumes exactly, changes only the network of each turn, and counts generator turns."""

import math
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dmd.config import Params, TrainConfig
from dmd.distillation.methods import METHODS
from dmd.distillation.state import TrainState
from dmd.distillation.trainer import train
from dmd.networks.wrapper import unwrap
from dmd.storage.checkpoint import Scratch
from dmd.teachers.pairs import Pairs
from dmd.teachers.teacher import Teacher
from dmd.training.optim import apply_gradients, learning_rate
from tests.helpers.sources import reals
from tests.helpers.training import alone, copies, method, short_training

SLOW = pytest.mark.slow

LABELS = torch.arange(10)
PAIRS = Pairs(torch.randn(12, 1, 8, 8), torch.rand(12, 1, 8, 8), torch.arange(12) % 10)


def train_rows(
    teacher: Teacher, params: Params, cfg: TrainConfig, state: TrainState, turns: int | None = None
) -> list[dict[str, float]]:
    """Train with three critic turns per generator turn, and return the rows of the log. turns: number to stop after."""
    m = method(params, PAIRS, critic_turns=3)
    return list(islice(train(state, m, cfg, teacher.shape, LABELS, alone()), turns))


def weights(state: TrainState) -> dict[str, Tensor]:
    """Copies of the weights of generator, critic and average."""
    nets = {"generator": state.nets.generator, "critic": state.nets.critic, "ema": state.averages[20000]}
    return {f"{n}.{k}": v.clone() for n, net in nets.items() for k, v in net.state_dict().items()}


@pytest.mark.parametrize(
    "turns", [pytest.param(2, marks=SLOW), pytest.param(4, marks=SLOW), 7]
)  # within the warm start, at its end, and after it
def test_a_resumed_training_equals_an_uninterrupted_one_to_the_bit(
    teacher: Teacher, params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, turns: int
) -> None:
    monkeypatch.setenv("DMD_SCRATCH", str(tmp_path))
    cfg = short_training(params, warm=(4, 2))
    whole = TrainState(copies(teacher), cfg)
    rows = train_rows(teacher, params, cfg, whole)
    first = TrainState(copies(teacher), cfg)
    train_rows(teacher, params, cfg, first, turns=turns)
    scratch = Scratch("train", {"a": 1}, {})
    scratch.save(first.state_dict())
    second = TrainState(copies(teacher), cfg)
    saved = Scratch("train", {"a": 1}, {}).load()
    assert saved is not None
    second.load_state_dict(saved)
    # Compared by repr, since nan is not equal to nan.
    assert repr(train_rows(teacher, params, cfg, second)) == repr(rows[turns:])
    a, b = weights(whole), weights(second)
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_budgets_count_generator_turns(teacher: Teacher, params: Params) -> None:
    cfg = short_training(params)
    state = TrainState(copies(teacher), cfg)
    rows = train_rows(teacher, params, cfg, state)
    assert [r["turn"] for r in rows] == [1, 2, 3, 4, 5, 6] and [r["step"] for r in rows] == [3, 6, 9, 12, 15, 18]


def test_each_turn_changes_its_own_network_and_a_generator_turn_the_average(
    teacher: Teacher, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights are compared after every turn; those of the teacher never change."""
    cfg = short_training(params, generator_turns=2)
    state = TrainState(copies(teacher), cfg)
    before = weights(state)
    frozen = {k: v.clone() for k, v in teacher.denoiser.state_dict().items()}
    turns: list[tuple[str, set[str]]] = []  # (turn, networks that changed since the turn before)
    m = method(params, critic_turns=3)
    loss = m.loss

    def spy(turn: str, *args: object) -> dict[str, Tensor]:
        nonlocal before
        now = weights(state)
        changed = {k.split(".")[0] for k in now if not torch.equal(now[k], before[k])}
        turns.append((turn, changed))
        before = now
        return loss(turn, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(m, "loss", spy)
    list(train(state, m, cfg, teacher.shape, LABELS, alone()))
    assert [t for t, _ in turns] == ["critic", "critic", "critic", "generator"] * 2
    assert [c for _, c in turns] == [
        set(),
        {"critic"},
        {"critic"},
        {"critic"},
        {"generator", "ema"},
        {"critic"},
        {"critic"},
        {"critic"},
    ]
    assert all(torch.equal(v, frozen[k]) for k, v in teacher.denoiser.state_dict().items())


def test_the_warm_start_changes_no_critic_and_the_catch_up_no_generator(teacher: Teacher, params: Params) -> None:
    cfg = short_training(params, warm=(4, 2))
    state = TrainState(copies(teacher), cfg)
    start = weights(state)
    m = method(params, PAIRS, critic_turns=3)
    rows = train(state, m, cfg, teacher.shape, LABELS, alone())
    assert [row["phase"] for row in islice(rows, 4)] == ["warm_start"] * 4
    warm = weights(state)
    assert all(torch.equal(warm[k], start[k]) == k.startswith("critic") for k in warm if "conv" in k and "weight" in k)
    generator, calls = state.nets.generator, []
    before = {k: v.clone() for k, v in generator.state_dict().items()}
    loss = m.loss

    def spy(turn: str, *args: object) -> dict[str, Tensor]:
        same = all(torch.equal(v, before[k]) for k, v in generator.state_dict().items())
        calls.append((turn, same))
        return loss(turn, *args)  # type: ignore[arg-type]

    m.loss = spy  # type: ignore[method-assign]
    next(train(state, m, cfg, teacher.shape, LABELS, alone()))
    assert calls == [("critic", True)] * (2 + 3) + [("generator", True)]


def test_each_phase_starts_with_new_optimizers(teacher: Teacher, params: Params) -> None:
    cfg = short_training(params, warm=(4, 2))
    state = TrainState(copies(teacher), cfg)
    train_rows(teacher, params, cfg, state, turns=5)  # four turns of the warm start, one of distribution matching
    assert {s["step"].item() for s in state.optimizers["generator"].state.values()} == {1.0}


def test_the_best_validation_is_kept(teacher: Teacher, params: Params) -> None:
    state = TrainState(copies(teacher), short_training(params))
    for turn, score in enumerate((3.0, 1.0, 2.0), start=1):
        with torch.no_grad():
            next(state.averages[20000].parameters()).fill_(score)
        state.turn = turn
        state.keep_if_best(20000, [score, score + 0.1], 0.0, whole=False)
    name = next(iter(state.averages[20000].state_dict()))
    assert (state.best.turn, state.best.scores) == (2, [1.0, 1.1]) and (state.best.weights[name] == 1.0).all()


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_learning_rates_count_the_turns_of_their_own_network(
    teacher: Teacher, params: Params, monkeypatch: pytest.MonkeyPatch, schedule: str
) -> None:
    """With three critic turns per generator turn, the generator's warm-up still lasts its number of generator turns."""
    cfg = short_training(params, lr_schedule=schedule)
    used: dict[str, list[float]] = {"generator": [], "critic": []}
    state = TrainState(copies(teacher), cfg)

    def spy(optimizer: torch.optim.Optimizer, net: torch.nn.Module, lr: float, *more: object) -> Tensor:
        used["generator" if net is state.nets.generator else "critic"].append(lr)
        return apply_gradients(optimizer, net, lr, *more)  # type: ignore[arg-type]

    monkeypatch.setattr("dmd.distillation.trainer.apply_gradients", spy)
    train_rows(teacher, params, cfg, state)
    for turn, base, total in (("generator", cfg.lr_generator, 6), ("critic", cfg.lr_critic, 18)):
        assert used[turn] == [learning_rate(base, i, 2, total, schedule) for i in range(total)]


def test_a_loss_that_is_not_finite_is_an_error_that_names_the_step(teacher: Teacher, params: Params) -> None:
    cfg = short_training(params)
    state = TrainState(copies(teacher), cfg)
    train_rows(teacher, params, cfg, state, turns=1)
    with torch.no_grad():
        next(state.nets.critic.parameters()).fill_(float("nan"))
    before = weights(state)
    with pytest.raises(FloatingPointError, match="critic loss at generator turn 1, step 3 is nan"):
        train_rows(teacher, params, cfg, state)
    assert all(torch.equal(v, before[k]) or "critic" in k for k, v in weights(state).items())


def test_gradient_checkpointing_does_not_change_the_weights(teacher: Teacher, params: Params) -> None:
    """The weights are equal up to rounding, also with the hooks of the GAN loss."""
    cfg = short_training(params)
    for name in ("dmd", "dmd2"):
        m = METHODS[name](params.method.model_copy(update={"name": name}), 1000, PAIRS, reals())
        weights = []
        for checkpointed in (False, True):
            nets = m.networks(teacher, 0)
            if checkpointed:
                nets.checkpoint_gradients()
            learning = (nets.generator.net, nets.critic.net)
            assert [unwrap(net).is_gradient_checkpointing for net in learning] == [checkpointed] * 2
            state = TrainState(nets, cfg)
            list(islice(train(state, m, cfg, teacher.shape, LABELS, alone()), 2))
            weights.append([p.clone() for p in nets.generator.parameters()])
        for a, b in zip(*weights, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_monitors_of_a_batch_in_parts_average_the_parts_that_have_a_value(teacher: Teacher, params: Params) -> None:
    """With one image per part, each part has a value in only one quarter of t, and no quarter may get lost."""
    cfg = short_training(params, generator_turns=1, batch_size=16, generator_batch_size=16)
    m = method(params, PAIRS, critic_turns=1)
    rows = []
    for parts in (1, 16):
        state = TrainState(copies(teacher), cfg)
        rows.append(next(train(state, m, cfg, teacher.shape, LABELS, alone(parts))))
    whole, split = rows
    quarters = [f"generator_grad_t{i}" for i in range(4)]
    assert not any(math.isnan(whole[q]) for q in quarters)
    assert [split[q] for q in quarters] == pytest.approx([whole[q] for q in quarters], rel=1e-4)
    assert split["generator_clamped"] == whole["generator_clamped"] <= 1
