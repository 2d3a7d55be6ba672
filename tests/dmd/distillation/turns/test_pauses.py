"""A phase without generator turns hears signals, is shown, and keeps no numbers."""

import os
import signal
from typing import Any

import pytest
import torch

from dmd import Distillation
from dmd.config import Params, TrainConfig, load_params
from dmd.distillation import trainer
from dmd.distillation.run import Distilled, distill
from dmd.distillation.selection import Validation
from dmd.distillation.state import TrainState
from dmd.distillation.trainer import Pause, advance
from dmd.distillation.turn_log import TurnLog
from dmd.signals import Stopped
from dmd.storage.checkpoint import Scratch
from dmd.teachers.pairs import Pairs
from dmd.teachers.teacher import Teacher
from tests.helpers.projects import ROOT
from tests.helpers.training import alone, copies, method, short_training

TURNS, WARM, CRITIC = 2, 1, 25  # generator turns, and those of the warm start and of the critic before them
LABELS = torch.arange(10)


@pytest.fixture
def cfg(params: Params) -> TrainConfig:
    return short_training(params, (WARM, CRITIC), generator_turns=TURNS, validate_every=1, checkpoint_every=100)


@pytest.fixture
def new_method(params: Params) -> Any:
    rng = torch.Generator().manual_seed(2)
    pairs = Pairs(*torch.rand(2, 12, 1, 8, 8, generator=rng), torch.arange(12) % 10)
    return lambda: method(params, pairs, critic_turns=1)


def send_at(step: int, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send a signal to this process in the turn of that step."""
    take_turn = trainer.take_turn

    def watched(state: TrainState, *more: Any) -> None:
        if state.step == step:
            os.kill(os.getpid(), number)
        take_turn(state, *more)

    monkeypatch.setattr(trainer, "take_turn", watched)


@pytest.mark.parametrize(
    ("sent_at", "saved_at", "number"),
    [(3, 11, signal.SIGTERM), (11, 21, signal.SIGUSR1), (WARM + CRITIC - 1, WARM + CRITIC, signal.SIGINT)],
)
def test_a_signal_ends_a_phase_of_critic_turns_and_the_resumed_run_gives_the_same_bytes(
    cfg: TrainConfig,
    new_method: Any,
    teacher: Teacher,
    scratch: Scratch,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    sent_at: int,
    saved_at: int,
    number: int,
) -> None:
    def run(name: str) -> Distilled:
        validate = lambda generator, turn: Validation([1.0 / turn] * 2, {})  # noqa: E731
        part = Scratch.at(scratch.root, name, "code")
        return distill(new_method(), copies(teacher), cfg, teacher, LABELS, (), part, validate, alone())

    whole = run("whole")
    assert f"train, catch_up (2 of 3): {CRITIC}/{CRITIC} steps (100 %)" in capsys.readouterr().err
    assert [row["turn"] for row in whole.rows] == [1, 2, 3]
    with monkeypatch.context() as patch, pytest.raises((Stopped, KeyboardInterrupt)):
        send_at(sent_at, number, patch)
        run("stopped")
    stopped = Scratch.at(scratch.root, "stopped", "code")
    saved = stopped.load()
    assert saved is not None and (saved["step"], saved["turn"]) == (saved_at, WARM)
    assert [row["turn"] for row in stopped.read_rows()] == [1]
    again = run("stopped")
    assert repr(again.rows) == repr(whole.rows) and again.turn == whole.turn
    a, b = (result.generator.denoiser.state_dict() for result in (whole, again))
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_a_loss_that_is_not_finite_is_seen_at_the_next_pause(
    cfg: TrainConfig, new_method: Any, teacher: Teacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint there would forget it."""
    m = new_method()
    loss = type(m).loss
    monkeypatch.setattr(type(m), "loss", lambda *args: {name: value * torch.nan for name, value in loss(*args).items()})
    items = advance(TrainState(copies(teacher), cfg), m, cfg, teacher.shape, LABELS, alone())
    next(items)
    assert next(items) == Pause("catch_up", 0)
    with pytest.raises(FloatingPointError, match="critic loss at generator turn 1, step 1 is nan"):
        next(items)


def test_a_phase_without_rows_keeps_no_numbers(
    cfg: TrainConfig, new_method: Any, teacher: Teacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs: list[TurnLog] = []
    monkeypatch.setattr(trainer, "TurnLog", lambda *args: logs.append(TurnLog(*args)) or logs[-1])
    items = advance(TrainState(copies(teacher), cfg), new_method(), cfg, teacher.shape, LABELS, alone())
    pauses = [(item.done, dict(logs[0].values), list(logs[0].checks)) for item in items if isinstance(item, Pause)]
    assert pauses == [(done, {}, []) for done in (0, 10, 20, CRITIC)]


def test_a_distillation_in_memory_gives_rows_alone(teacher: Teacher) -> None:
    changes = {
        "pairs.count": 12,
        "pairs.steps": 2,
        "train.warm_start": {"turns": 1, "batch_size": 4, "lr": 1e-3, "critic_turns": 11},
        "train.generator_turns": 1,
        "train.batch_size": 4,
        "train.generator_batch_size": 4,
        "method.critic_turns": 1,
    }
    rows = list(Distillation(load_params(ROOT / "params.yaml", changes), teacher))
    assert [row["turn"] for row in rows] == [1, 2] and all(row["critic_total"] for row in rows[1:])
