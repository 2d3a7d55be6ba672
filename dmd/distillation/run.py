"""Runs a distillation from its start or its last checkpoint to its end, with progress and validation."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import Any, NamedTuple

import pandas as pd
from torch import Tensor

from dmd.config import TrainConfig
from dmd.distillation.lora import load_trainable_state
from dmd.distillation.methods import Method
from dmd.distillation.networks import Networks
from dmd.distillation.parallel.workers import Workers
from dmd.distillation.phases import Phase
from dmd.distillation.selection import Validation
from dmd.distillation.state import TrainState
from dmd.distillation.trainer import train
from dmd.generator.generator import Generator
from dmd.progress import Progress
from dmd.signals import postpone_stop
from dmd.storage.checkpoint import Scratch
from dmd.teachers.teacher import Teacher

PROGRESS_COLUMNS = ("critic_total", "generator_dm", "generator_regression")
Validate = Callable[[Generator, int], Validation]  # (generator, turn) -> its scores


class Distilled(NamedTuple):
    """The result of a distillation."""

    generator: Generator  # the average that validation selected
    turn: int  # number of generator turns after which validation selected it
    rows: list[dict[str, Any]]  # one row of numbers per generator turn

    def losses_csv(self) -> str:
        """The rows as a CSV file."""
        return pd.DataFrame(self.rows).to_csv(index=False)

    def summary(self) -> str:
        """One line with the number of turns, the selected turn and its validation score."""
        row = next(row for row in self.rows if row["turn"] == self.turn)
        score = f"{row['validation_score']:.3g} +/- {row['validation_error']:.1g}"
        return f"{len(self.rows)} generator turns; the best is after turn {self.turn}, validation score {score}"


def distill(
    method: Method,
    nets: Networks,
    cfg: TrainConfig,
    teacher: Teacher,
    labels: Tensor,
    classes: tuple[str, ...],
    scratch: Scratch,
    validate: Validate,
    workers: Workers,
) -> Distilled:
    """Train to the end. labels [N] are the conditions of the data, classes their names.

    Every process trains; only the main process validates, saves and shows progress. After a signal to any process, all
    of them end after their turn, with a checkpoint: raises Stopped, or KeyboardInterrupt after SIGINT.
    """
    state = _load_state(nets, cfg, scratch)
    phases = method.phases(cfg)
    total = sum(phase.generator_turns for phase in phases)
    patience = Patience.of(cfg, phases)
    names, conditions = (classes, labels) if teacher.conditions else ((), None)

    def generator(half_life: int) -> Generator:
        return Generator(state.average(half_life), method.generator_times, teacher.shape, names, teacher.codec)

    # A run that was killed between its last turn and its export has nothing left to train.
    rows = () if patience.is_over(state) else train(state, method, cfg, teacher.shape, conditions, workers)
    with PhaseProgress(phases, state.turn, workers.is_main) as progress, postpone_stop() as stop:
        for row in rows:
            is_last = state.turn == total
            if is_last or state.turn % cfg.validate_every == 0:
                half_life, validation = _validate(state, generator, validate, workers)
                row |= validation.row() | {"ema_half_life": half_life}
                phase, later = _split_phases(phases, row["phase"])
                if not phase.is_preparation:
                    returns = any(phase.starts_from_best for phase in later)
                    state.keep_if_best(half_life, validation.scores, cfg.validation.tolerance, returns)
                    is_last = is_last or patience.is_over(state)
            state.rows.append(row)
            progress.update(row)
            is_stopped = workers.any(bool(stop))
            if state.turn % cfg.checkpoint_every == 0 or is_last or is_stopped:
                _save(state, scratch, workers)
            if is_last:
                break
            if is_stopped:
                stop.end()
    best = generator(state.best.half_life)
    load_trainable_state(best.denoiser, state.best.weights)
    return Distilled(best, state.best.turn, state.rows)


def _load_state(nets: Networks, cfg: TrainConfig, scratch: Scratch) -> TrainState:
    """Return the state of the last checkpoint; that of a new run without one."""
    state = TrainState(nets, cfg)
    if checkpoint := scratch.load():
        state.load_state_dict(checkpoint)
    return state


def _save(state: TrainState, scratch: Scratch, workers: Workers) -> None:
    """Save a checkpoint in the main process; every process must call this, since it may have to send its shards."""
    checkpoint = state.state_dict()
    if workers.is_main:
        scratch.save(checkpoint)


def _validate(
    state: TrainState, generator: Callable[[int], Generator], validate: Validate, workers: Workers
) -> tuple[int, Validation]:
    """Validate every average. Returns the half-life of the best one and its scores."""
    validations = {
        half_life: workers.from_main(partial(validate, generator(half_life), state.turn))
        for half_life in state.averages
    }
    best = min(validations, key=lambda half_life: fmean(validations[half_life].scores))
    return best, validations[best]


def _split_phases(phases: tuple[Phase, ...], name: str) -> tuple[Phase, tuple[Phase, ...]]:
    """The phase of that name, and the phases after it."""
    place = [phase.name for phase in phases].index(name)
    return phases[place], phases[place + 1 :]


@dataclass(frozen=True)
class Patience:
    """Ends the last phase after a number of generator turns without a better generator.

    Earlier phases always run to their end.
    """

    turns: int  # 0: never end early
    start: int  # generator turns before the last phase

    @classmethod
    def of(cls, cfg: TrainConfig, phases: tuple[Phase, ...]) -> "Patience":
        """Convert the patience of the parameters from validations to generator turns."""
        counts = [phase.generator_turns for phase in phases if phase.generator_turns]
        return cls(cfg.patience * cfg.validate_every, sum(counts[:-1]))

    def is_over(self, state: TrainState) -> bool:
        """Whether the run must end now."""
        turns_since_best = state.turn - max(state.best.turn, self.start)
        return self.turns > 0 and state.turn > self.start and turns_since_best >= self.turns


class PhaseProgress:
    """A progress line for each phase, since turns of different phases take different times."""

    def __init__(self, phases: Iterable[Phase], turn: int, is_visible: bool) -> None:
        """turn: generator turns before this process started, over all phases."""
        self.is_visible = is_visible
        self.totals = {phase.name: phase.generator_turns for phase in phases if phase.generator_turns}
        self.turn = turn
        self.validated: dict[str, Any] = {}  # the score of the last validation, shown until the next one
        self.current: tuple[str, Progress] | None = None

    def __enter__(self) -> "PhaseProgress":
        return self

    def __exit__(self, *exc: object) -> None:
        if self.current is not None:
            self.current[1].__exit__(*exc)

    def update(self, row: dict[str, Any]) -> None:
        """Count one generator turn and show its numbers."""
        if not self.is_visible:
            return
        name = row["phase"]
        if self.current is None or self.current[0] != name:
            self.__exit__(None, None, None)
            place = list(self.totals).index(name)
            before = sum(list(self.totals.values())[:place])
            title = f"train, {name} ({place + 1} of {len(self.totals)})"
            self.current = (name, Progress(title, self.totals[name], "turns", max(self.turn - before, 0)))
        self.validated |= {k: row[k] for k in ("validation_score",) if k in row}
        self.current[1].update(**{k: row[k] for k in PROGRESS_COLUMNS if k in row} | self.validated)
