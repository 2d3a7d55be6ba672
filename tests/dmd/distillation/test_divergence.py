"""A training that goes wrong is seen at the next row, and stops or rolls back; kills do not change its result."""

import math
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dmd.config import Params, TrainConfig
from dmd.distillation import trainer
from dmd.distillation.divergence.signs import CriticLevel, batch_spread, image_spread
from dmd.distillation.methods.dmd import DMD
from dmd.distillation.records import write_records
from dmd.distillation.run import Distilled, distill
from dmd.distillation.selection import Validation
from dmd.distillation.state import TrainState
from dmd.generator.generator import Generator
from dmd.signals import STOP_SIGNALS, Stopped
from dmd.storage.checkpoint import Scratch
from dmd.storage.events import read_events, write_events
from evaluation.report.outputs import collect_facts
from tests.helpers.training import alone, copies, method, short_training

BAD_TURN = 4  # generator turns done before the training goes wrong


def training(params: Params, **changes: Any) -> TrainConfig:
    divergence = params.train.divergence.model_copy(update={"rollbacks": 2} | changes.pop("divergence", {}))
    return short_training(params, validate_every=1, checkpoint_every=2, patience=0, divergence=divergence, **changes)


class Losses:
    """Losses of DMD that go wrong from a turn on, while the learning rates are above a limit."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, kind: str, until_scale: float) -> None:
        self.kind, self.until_scale, self.state = kind, until_scale, None
        self.seen: list[tuple[int, float]] = []  # (turn, scale of the learning rates) of each generator turn
        take_turn, loss = trainer.take_turn, DMD.loss

        def watched(state: TrainState, *more: Any) -> None:
            self.state = state
            take_turn(state, *more)

        def changed(method: DMD, network: str, *more: Any) -> dict[str, Tensor]:
            return self.change(network, loss(method, network, *more))

        monkeypatch.setattr(trainer, "take_turn", watched)
        monkeypatch.setattr(DMD, "loss", changed)

    def change(self, network: str, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        assert self.state is not None
        turn, scale = self.state.turn, self.state.lr_scale
        if network == "generator":
            self.seen.append((turn, scale))
        if turn < BAD_TURN or scale < self.until_scale:
            return losses
        if self.kind == "loss":
            return losses | {"total": losses["total"] * math.nan}
        if self.kind == "critic" and network == "critic":
            return losses | {"total": losses["total"] * 1e4}
        if self.kind in ("image", "collapse") and network == "generator":
            spread = math.nan if self.kind == "image" else 1e-6
            return losses | {"spread": torch.tensor([0.0, spread**2]).double()[:, None].expand(2, 64)}
        return losses


@pytest.fixture
def run(params: Params, scratch: Scratch, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Run a distillation. stop: turns after whose validation the process gets SIGTERM; kill: raises there instead.

    best: turns after which the generator has the lowest score; 0 for the last ones. validated: gets the weights of each
    generator that was validated, by its turn.
    """
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}

    def start(
        cfg: TrainConfig,
        teacher: Any,
        name: str,
        stop: int = 0,
        kill: int = 0,
        best: int = 0,
        validated: dict[int, list[Tensor]] | None = None,
    ) -> Distilled:
        def validate(generator: Generator, turn: int) -> Validation:
            if turn == stop:
                os.kill(os.getpid(), signal.SIGTERM)
            if turn == kill:
                raise KeyboardInterrupt
            if validated is not None:
                validated[turn] = [v.clone() for v in generator.denoiser.state_dict().values()]
            score = 1.0 + abs(turn - best) if best else 1.0 / turn
            return Validation([score, score], {})

        part = scratch.part(name)
        labels, m = torch.arange(10), method(params, critic_turns=1)
        return distill(m, copies(teacher), cfg, teacher, labels, ("a",) * 10, part, validate, alone())

    yield start
    for number, handler in before.items():
        signal.signal(number, handler)


def weights(result: Distilled) -> list[Tensor]:
    return list(result.generator.denoiser.state_dict().values())


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("loss", "critic loss at generator turn 4, step .* is nan"),
        ("image", "generator loss at generator turn 4, .*: the generated images have NaN or infinite values"),
        ("collapse", "generated images are all equal, with a spread of 1e-06"),
        ("critic", "critic loss at generator turn 5, .* it explodes, as its lowest level was"),
    ],
)
def test_a_training_that_goes_wrong_stops_with_the_best_generator(
    run: Any, params: Params, teacher: Any, monkeypatch: pytest.MonkeyPatch, kind: str, text: str
) -> None:
    """It is seen at the next row, and the summary says what happened."""
    Losses(monkeypatch, kind, until_scale=0.0)
    result = run(training(params), teacher, kind)
    assert (len(result.rows), result.turn, len(result.events)) == (BAD_TURN, BAD_TURN, 1)
    (event,) = result.events
    action = "the run ended; its generator is the best one before, of turn 4"
    assert event["turn"] == BAD_TURN and event["action"] == action
    assert re.search(text, event["problem"]), event
    assert all(v.isfinite().all() for v in weights(result)) and event["problem"] in result.summary()


def test_the_generator_that_is_exported_is_the_best_and_not_the_last(
    run: Any, params: Params, teacher: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    Losses(monkeypatch, "loss", until_scale=0.0)
    validated: dict[int, list[Tensor]] = {}
    result = run(training(params), teacher, "best", best=2, validated=validated)
    assert (result.turn, max(validated)) == (2, BAD_TURN)
    assert all(torch.equal(a, b) for a, b in zip(weights(result), validated[2], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(weights(result), validated[BAD_TURN], strict=True))


def test_without_a_validated_generator_it_is_an_error(
    run: Any, params: Params, teacher: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    Losses(monkeypatch, "loss", until_scale=0.0)
    cfg = training(params).model_copy(update={"validate_every": 100})
    with pytest.raises(FloatingPointError, match="critic loss at generator turn 4"):
        run(cfg, teacher, "error")


@pytest.mark.slow
def test_it_rolls_back_with_lower_rates_and_a_kill_changes_nothing(
    run: Any, params: Params, teacher: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM leaves a checkpoint at turn 5, which no other run has: the run rolls back to turn 4 all the same."""
    cfg = training(params, on_divergence="roll_back", divergence={"lr_factor": 0.5})
    losses = Losses(monkeypatch, "collapse", until_scale=0.5)
    whole = run(cfg, teacher, "whole")
    assert losses.seen == [*((t, 1.0) for t in range(5)), (4, 0.5), (4, 0.25), (5, 0.25)]
    assert [e["action"].split(", ")[1] for e in whole.events] == [
        "learning rates times 0.5",
        "learning rates times 0.25",
    ]
    assert len(whole.rows) == 6 and whole.turn == 6
    for name, changes in (("stopped", {"stop": 3}), ("later", {"stop": 5}), ("killed", {"kill": 5})):
        with pytest.raises((Stopped, KeyboardInterrupt)):
            run(cfg, teacher, name, **changes)
        again = run(cfg, teacher, name)
        assert repr(again.rows) == repr(whole.rows) and again.events == whole.events, name
        assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(again), strict=True)), name


def test_it_does_not_roll_back_to_the_checkpoint_of_a_signal(
    run: Any, params: Params, teacher: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last checkpoint at a fixed turn is that before the first one; the signal leaves a later one at turn 3."""
    cfg = training(params, on_divergence="roll_back").model_copy(update={"checkpoint_every": 100})
    Losses(monkeypatch, "collapse", until_scale=1.0)
    whole = run(cfg, teacher, "whole")
    assert [event["action"].split(",")[0] for event in whole.events] == ["the run rolled back to turn 0"]
    with pytest.raises(Stopped):
        run(cfg, teacher, "stopped", stop=3)
    again = run(cfg, teacher, "stopped")
    assert again.events == whole.events and repr(again.rows) == repr(whole.rows)


def test_it_rolls_back_a_bounded_number_of_times_and_to_the_start_if_need_be(
    run: Any, params: Params, teacher: Any, monkeypatch: pytest.MonkeyPatch, scratch: Scratch, tmp_path: Path
) -> None:
    """The third time it stops. The checkpoint before the first turn is one to roll back to."""
    cfg = training(params, on_divergence="roll_back").model_copy(update={"checkpoint_every": 100})
    losses = Losses(monkeypatch, "loss", until_scale=0.0)
    result = run(cfg, teacher, "often")
    assert len(result.events) == 3 and "the run rolled back to turn 0" in result.events[0]["action"]
    assert [turn for turn, _ in losses.seen] == [*range(5)] * 3 and len(result.rows) == result.turn == BAD_TURN
    for turn in (4, 5):
        (tmp_path / f"turn_{turn:06d}.png").write_bytes(b"")
    phases = method(params, critic_turns=1).phases(cfg)
    write_records(result.rows, result.events, phases, [], tmp_path, tmp_path / "out")
    assert [f.name for f in (tmp_path / "out").glob("turn_*")] == ["turn_000004.png"]
    assert read_events(tmp_path / "out") == result.events


def test_the_report_says_what_happened(tmp_path: Path) -> None:
    assert "training went wrong" not in str(collect_facts({}, tmp_path))
    write_events([{"turn": 7, "problem": "loss is nan", "action": "the run ended"}], tmp_path)
    assert collect_facts({}, tmp_path)["training went wrong at turn 7"] == "loss is nan: the run ended"


def test_the_spread_of_images() -> None:
    def spread(x: Tensor) -> Tensor:
        return batch_spread(image_spread(x), len(x))

    x = torch.rand(4, 1, 8, 8)
    torch.testing.assert_close(spread(x), x.double().std(dim=0, correction=0).mean())
    assert spread(x) > 0.1 and spread(x[:1]) > 0.1
    assert spread(x[:1].expand(4, 1, 8, 8)) < 1e-6 and spread(torch.ones(1, 1, 8, 8)) == 0
    assert not spread(x * math.nan).isfinite()


@pytest.mark.parametrize("parts", [1, 4, 8])
def test_equal_images_are_found_in_any_number_of_parts(
    params: Params, teacher: Any, monkeypatch: pytest.MonkeyPatch, parts: int
) -> None:
    """With eight parts, each has one image, which differs from pixel to pixel."""
    one = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr("dmd.distillation.methods.dmd.image_spread", lambda x: image_spread(one.expand_as(x)))
    cfg, m = training(params), method(params, critic_turns=1)
    rows = trainer.train(TrainState(copies(teacher), cfg), m, cfg, (1, 8, 8), torch.arange(10), alone(parts))
    with pytest.raises(FloatingPointError, match="the generated images are all equal"):
        next(rows)


def test_a_critic_explodes_against_its_lowest_level_in_the_phase() -> None:
    """A slow rise is seen as well; a phase starts with a level of its own, which a checkpoint keeps."""

    def rise(rate: float, phases: tuple[str, ...] = ("a",) * 60) -> int:
        level = CriticLevel()
        for turn, phase in enumerate(phases):
            again = CriticLevel()
            again.load_state_dict(level.state_dict())
            level = again
            try:
                level.check({"phase": phase, "turn": turn, "step": 0, "critic_total": rate**turn}, 50.0)
            except FloatingPointError:
                return turn
        return -1

    assert rise(1.0) == rise(1.05) == -1 and 10 <= rise(1.5) <= 12
    assert rise(1.5, tuple(str(turn // 8) for turn in range(40))) == -1
    CriticLevel().check({"phase": "a", "turn": 1, "step": 1}, 50.0)  # a method without a critic
