"""A run of distillation keeps the best generator by validation, and ends when patience runs out."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dmd.config import Params, ValidationConfig
from dmd.distillation.methods import METHODS
from dmd.distillation.networks import Networks
from dmd.distillation.run import Distilled, PhaseProgress, distill
from dmd.distillation.selection import Validation
from dmd.distillation.setup import load_weights
from dmd.errors import ConfigError
from dmd.generator.generator import Generator
from dmd.signals import STOP_SIGNALS, Stopped, postpone_stop
from dmd.storage.checkpoint import Scratch
from dmd.teachers.pairs import Pairs
from dmd.teachers.teacher import Teacher
from tests.helpers.faults.damage import flip
from tests.helpers.networks import toy_denoiser
from tests.helpers.sources import reals
from tests.helpers.training import alone, copies, method, short_training

LABELS = torch.arange(10)


SLOW = pytest.mark.slow
PAIRS = Pairs(torch.randn(12, 1, 8, 8), torch.rand(12, 1, 8, 8), torch.arange(12) % 10)


def tolerating(params: Params, tolerance: float) -> ValidationConfig:
    """The validation of the parameters with another tolerance."""
    return params.train.validation.model_copy(update={"tolerance": tolerance})


def draws_of(score: float) -> Validation:
    """A validation of two draws with this mean."""
    return Validation([score - 0.01, score + 0.01], {})


def run_distill(params: Params, teacher: Teacher, tmp_path: Path, scores: list[float], **changes: object) -> tuple:
    """Run `distill` with these validation scores; return its results and all validated weights."""
    cfg = short_training(
        params, generator_turns=5, validate_every=1, checkpoint_every=1, validation=tolerating(params, 0.0), **changes
    )
    states: list[dict[str, Tensor]] = []

    def validate(generator: Generator, turn: int) -> Validation:
        states.append({k: v.clone() for k, v in generator.denoiser.state_dict().items()})
        return draws_of(scores[turn - 1])

    scratch = Scratch("train", {}, {})
    results = distill(
        method(params, PAIRS), copies(teacher), cfg, teacher, LABELS, ("a",) * 10, scratch, validate, alone()
    )
    return *results[:3], states


def test_the_best_generator_is_exported_not_the_last(
    teacher: Teacher, params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DMD_SCRATCH", str(tmp_path))
    generator, best, rows, states = run_distill(params, teacher, tmp_path, [5.0, 2.0, 1.0, 3.0, 4.0])
    assert len(rows) == 5 and best == 3 and [row["validation_kept"] for row in rows] == [1, 1, 1, 0, 0]
    assert all(torch.equal(v, states[2][k]) for k, v in generator.denoiser.state_dict().items())


def test_the_summary_names_the_selected_turn_and_its_score() -> None:
    rows = [{"turn": 1, "validation_score": 0.0123456, "validation_error": 0.00126}, {"turn": 2}]
    result = Distilled(Generator(toy_denoiser(), (999,), (1, 8, 8), ()), 1, rows)
    assert result.summary() == "2 generator turns; the best is after turn 1, validation score 0.0123 +/- 0.001"


def test_progress_shows_the_last_validation_until_the_next_one(
    params: Params, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dmd.progress.SECONDS_BETWEEN_LINES", 0.0)
    phases = method(params, PAIRS).phases(short_training(params, generator_turns=3))
    with PhaseProgress(phases, 0, is_visible=True) as progress:
        for turn, scores in ((1, {"validation_score": 0.5}), (2, {}), (3, {"validation_score": 0.25})):
            progress.update({"turn": turn, "phase": "distill", "critic_total": 1.0, **scores})
    lines = capsys.readouterr().err.splitlines()
    assert [line.rpartition(" ")[2] for line in lines] == ["0.5", "0.5", "0.25"]


def test_a_generator_of_the_warm_start_is_never_kept(
    teacher: Teacher, params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DMD_SCRATCH", str(tmp_path))
    generator, best, rows, states = run_distill(
        params, teacher, tmp_path, [0.1, 0.1, 4.0, 3.0, 5.0, 9.0, 9.0], warm=(2, 1)
    )
    assert len(rows) == 7 and best == 4 and [row.get("validation_kept") for row in rows] == [None, None, 1, 1, 0, 0, 0]
    assert all(torch.equal(v, states[3][k]) for k, v in generator.denoiser.state_dict().items())


def test_patience_ends_a_run_that_no_longer_improves(
    teacher: Teacher, params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DMD_SCRATCH", str(tmp_path))
    _, best, rows, _ = run_distill(params, teacher, tmp_path, [2.0, 1.0, 3.0, 3.0, 0.0], patience=2)
    assert (best, len(rows)) == (2, 4)
    # A second run, as after a kill before the export, validates nothing again.
    _, best, again, states = run_distill(params, teacher, tmp_path, [0.0] * 5, patience=2)
    assert (best, repr(again), states) == (2, repr(rows), [])


def test_patience_applies_to_the_last_phase_from_its_beginning(
    teacher: Teacher, params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plateau in the phase without the GAN loss neither ends the run nor counts in the next phase."""
    monkeypatch.setenv("DMD_SCRATCH", str(tmp_path))
    gan = params.method.gan.model_copy(update={"from_turn": 3})
    validation = tolerating(params, 0.0)
    cfg = short_training(params, generator_turns=9, validate_every=1, validation=validation, patience=2)
    m = METHODS["dmd2"](params.method.model_copy(update={"name": "dmd2", "gan": gan}), 1000, PAIRS, reals())
    scores = iter([1.0, 2.0, 3.0, 4.0, 0.5, 1.0, 1.0])

    def validate(generator: Generator, turn: int) -> Validation:
        return draws_of(next(scores))

    scratch = Scratch("train", {}, {})
    nets = m.networks(teacher, 0)
    _, best, rows, _ = distill(m, nets, cfg, teacher, LABELS, ("a",) * 10, scratch, validate, alone())
    assert [r["phase"] for r in rows] == ["distill"] * 3 + ["adversarial"] * 4 and best == 5


def test_a_run_with_patience_ends_at_the_same_turn_if_it_resumes_between_validations(
    teacher: Teacher, params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last phase begins after turn 3. Validations are at turns 2, 4, 6 and 8; at turn 8, 5 turns were no better."""
    validation = tolerating(params, 0.0)
    cfg = short_training(params, (3, 0), validate_every=2, checkpoint_every=1, validation=validation, patience=2)

    def run(folder: str, kill: int) -> Distilled:
        def validate(generator: Generator, turn: int) -> Validation:
            if turn == kill:
                raise KeyboardInterrupt
            return draws_of(float(turn))

        monkeypatch.setenv("DMD_SCRATCH", str(tmp_path / folder))
        m, scratch = method(params, PAIRS, critic_turns=1), Scratch("train", {}, {})
        return distill(m, copies(teacher), cfg, teacher, LABELS, (), scratch, validate, alone())

    whole = run("whole", 0)
    with pytest.raises(KeyboardInterrupt):
        run("killed", 8)
    again = run("killed", 0)
    assert len(whole.rows) == 8 and repr(again.rows) == repr(whole.rows)


# Turn 4 is the last before the return to turn 2.
@pytest.mark.parametrize("killed_at", [pytest.param(3, marks=SLOW), 4, pytest.param(5, marks=SLOW)])
def test_a_resumed_run_equals_an_uninterrupted_one_across_the_return_to_the_best(
    teacher: Teacher, params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_at: int
) -> None:
    """The checkpoint holds every network of the kept turn."""
    gan = params.method.gan.model_copy(update={"from_turn": 4})
    cfg = short_training(params, validate_every=1, checkpoint_every=1, validation=tolerating(params, 0.0))
    m = METHODS["dmd2"](params.method.model_copy(update={"name": "dmd2", "gan": gan}), 1000, PAIRS, reals())

    def run(folder: str, kill: int | None) -> tuple[Distilled, dict[str, Tensor]]:
        def validate(generator: Generator, turn: int) -> Validation:
            if turn == kill:
                raise KeyboardInterrupt
            return draws_of([5.0, 1.0, 2.0, 3.0, 0.5, 0.4][turn - 1])

        monkeypatch.setenv("DMD_SCRATCH", str(tmp_path / folder))
        nets = m.networks(teacher, 0)
        scratch = Scratch("train", {}, {})
        result = distill(m, nets, cfg, teacher, LABELS, ("a",) * 10, scratch, validate, alone())
        return result, nets.trained_in("critic").state_dict()

    whole, critic = run("whole", None)
    with pytest.raises(KeyboardInterrupt):
        run("killed", killed_at)
    resumed, again = run("killed", None)
    assert repr(resumed.rows) == repr(whole.rows) and resumed.turn == whole.turn == 6
    assert all(torch.equal(v, again[k]) for k, v in critic.items())
    weights = resumed.generator.denoiser.state_dict()
    assert all(torch.equal(v, weights[k]) for k, v in whole.generator.denoiser.state_dict().items())


def test_validation_chooses_among_several_averages(
    teacher: Teacher, params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each average is validated, and the one with the lowest score is kept."""
    monkeypatch.setenv("DMD_SCRATCH", str(tmp_path))
    cfg = short_training(params, generator_turns=3, validate_every=3, ema_half_lives=[1, 20, 5000], lr_generator=1e-2)
    nets, states = copies(teacher), []

    def validate(generator: Generator, turn: int) -> Validation:
        states.append({k: v.clone() for k, v in generator.denoiser.state_dict().items()})
        return draws_of([2.0, 1.0, 3.0][len(states) - 1])

    scratch = Scratch("train", {}, {})
    m = method(params, PAIRS)
    best, _, rows, _ = distill(m, nets, cfg, teacher, LABELS, ("a",) * 10, scratch, validate, alone())
    assert len(states) == 3 and rows[-1]["ema_half_life"] == 20
    assert all(torch.equal(v, states[1][k]) for k, v in best.denoiser.state_dict().items())
    assert not all(torch.equal(v, states[0][k]) for k, v in best.denoiser.state_dict().items())


@pytest.fixture
def signals() -> Iterator[None]:
    """Restore the handlers of signals after a test."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, *STOP_SIGNALS)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("signals")
def test_a_signal_saves_the_turn_that_it_falls_in(
    teacher: Teacher, params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No periodic checkpoint is due. The continued run ends with the same bytes, also from the checkpoint before."""
    cfg = short_training(params, generator_turns=4, validate_every=1, checkpoint_every=100, patience=0)
    sent: dict[int, signal.Signals] = {}

    def validate(generator: Generator, turn: int) -> Validation:
        if turn in sent:
            os.kill(os.getpid(), sent[turn])
        return draws_of(1.0 / turn)

    def train() -> Distilled:
        scratch = Scratch("train", {}, {})
        return distill(method(params, PAIRS), copies(teacher), cfg, teacher, LABELS, (), scratch, validate, alone())

    monkeypatch.setattr("dmd.storage.checkpoint.code_hash", lambda: "code")
    monkeypatch.setenv("DMD_SCRATCH", str(tmp_path / "whole"))
    whole = train()
    monkeypatch.setenv("DMD_SCRATCH", str(tmp_path / "stopped"))
    for turn, number in enumerate((signal.SIGINT, signal.SIGTERM, signal.SIGUSR1), start=1):
        sent = {turn: number}
        with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else Stopped):
            train()
        assert Scratch("train", {}, {}).checkpoints()[-1].name == f"state-{turn:06d}-stop.pt"
    sent = {}
    flip(Scratch("train", {}, {}).checkpoints()[-1:])
    again = train()
    assert (repr(again.rows), again.turn) == (repr(whole.rows), whole.turn)
    a, b = (result.generator.denoiser.state_dict() for result in (whole, again))
    assert all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.usefixtures("signals")
def test_a_second_interrupt_ends_at_once_and_a_second_sigterm_is_ignored() -> None:
    with postpone_stop() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.number == signal.SIGTERM
    os.kill(os.getpid(), signal.SIGTERM)  # the stage cleans up
    with pytest.raises(KeyboardInterrupt), postpone_stop():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("not reached")


def test_training_can_begin_from_a_finished_generator(teacher: Teacher, tmp_path: Path) -> None:
    """The networks take its weights bit by bit; a network of another shape is an error."""
    finished = Generator(toy_denoiser(seed=5), (999,), (1, 8, 8), ())
    nets = Networks(toy_denoiser(), toy_denoiser(), toy_denoiser())
    load_weights(nets.generator, finished, tmp_path)
    assert all(torch.equal(v, finished.denoiser.state_dict()[k]) for k, v in nets.generator.state_dict().items())
    with pytest.raises(ConfigError, match=r"method.init_from: the network in .* differs from the teacher's"):
        load_weights(teacher.denoiser.copy(), finished, tmp_path)
