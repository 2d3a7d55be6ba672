"""Runs a distillation from its start or its last checkpoint to its end, with progress and validation."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, NamedTuple

import pandas as pd
from torch import Tensor

from dmd.config import TrainConfig
from dmd.distillation.divergence.recovery import Recovery
from dmd.distillation.lora import load_trainable_state
from dmd.distillation.methods import Method
from dmd.distillation.networks import Networks
from dmd.distillation.parallel.workers import Workers
from dmd.distillation.phases import Phase
from dmd.distillation.selection import Validation
from dmd.distillation.setup import new_generator
from dmd.distillation.state import TrainState
from dmd.distillation.trainer import Pause, advance
from dmd.generator.generator import Generator
from dmd.progress import LiveLog, Progress
from dmd.signals import StopRequest, postpone_stop
from dmd.storage.checkpoint import Scratch
from dmd.storage.events import Event, describe
from dmd.teachers.teacher import Teacher

PROGRESS_COLUMNS = ("critic_total", "generator_dm", "generator_regression")
Validate = Callable[[Generator, int], Validation]  # (generator, turn) -> its scores


class Distilled(NamedTuple):
    """The result of a distillation."""

    generator: Generator  # the average that validation selected
    turn: int  # number of generator turns after which validation selected it
    rows: list[dict[str, Any]]  # one row of numbers per generator turn; in the main process only
    events: Sequence[Event] = ()  # times at which the training went wrong

    def losses_csv(self) -> str:
        """The rows as a CSV file."""
        return pd.DataFrame(self.rows).to_csv(index=False)

    def summary(self) -> str:
        """One line with the number of turns, the selected turn and its validation score."""
        row = next(row for row in self.rows if row["turn"] == self.turn)
        score = f"{row['validation_score']:.3g} +/- {row['validation_error']:.1g}"
        text = f"{len(self.rows)} generator turns; the best is after turn {self.turn}, validation score {score}"
        return "; ".join([text, *map(describe, self.events)])


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

    Every process trains and validates; only the main one saves and shows progress. A training that goes wrong stops or
    rolls back, as train.on_divergence says: raises FloatingPointError if it stops without a validated generator. After
    a signal to any process, all of them end after their turn, or at the next pause of a phase without generator turns,
    with a checkpoint: raises Stopped, or KeyboardInterrupt after SIGINT.
    """
    state = _load_state(nets, cfg, scratch, workers)
    phases, conditions = method.phases(cfg), labels if teacher.conditions else None
    recovery = Recovery(cfg, scratch, workers)

    def generator(half_life: int) -> Generator:
        return new_generator(state.average(half_life), method, teacher, classes)

    run = _Run(state, cfg, phases, scratch, generator, validate, workers)
    with postpone_stop() as stop, scratch:
        recovery.begin(state)
        while not run.is_over:
            turns = advance(state, method, cfg, teacher.shape, conditions, workers)
            try:
                run.follow(turns, stop)
            except FloatingPointError as e:
                if not recovery.recover(state, e):
                    break
    best = generator(state.best.half_life)
    load_trainable_state(best.denoiser, state.best.weights)
    rows = scratch.read_rows() + run.unsaved if workers.is_main else []
    return Distilled(best, state.best.turn, rows, state.events)


@dataclass
class _Run:
    """One run of a training: validates, saves and shows what the training loop yields."""

    state: TrainState
    cfg: TrainConfig
    phases: tuple[Phase, ...]
    scratch: Scratch
    generator: Callable[[int], Generator]  # the average of a half-life
    validate: Validate
    workers: Workers
    unsaved: list[dict[str, Any]] = field(default_factory=list)  # rows since the last checkpoint

    def __post_init__(self) -> None:
        self.total = sum(phase.generator_turns for phase in self.phases)
        self.patience = Patience.of(self.cfg, self.phases)

    @property
    def is_over(self) -> bool:
        """Whether no turn is left: at the end, or in a run that was killed between its last turn and the export."""
        return self.state.turn >= self.total or self.patience.is_over(self.state)

    def follow(self, turns: Iterable[dict[str, Any] | Pause], stop: StopRequest) -> None:
        """Validate, save and show the rows of the training loop to its end; at a pause, show steps and hear signals.

        Raises FloatingPointError if the training goes wrong, and Stopped or KeyboardInterrupt after a signal.
        """
        self.unsaved = []
        with PhaseProgress(self.phases, self.state.turn, self.workers.is_main) as progress:
            for row in turns:
                self.scratch.check()
                if isinstance(row, Pause):
                    progress.pause(row)
                    self._save(stop, is_due=False)
                    continue
                is_last = self.state.turn == self.total
                if is_last or self.state.turn % self.cfg.validate_every == 0:
                    is_last = self._validate(row) or is_last
                self.unsaved.append(row)
                progress.update(row)
                self._save(stop, is_last or self.state.turn % self.cfg.checkpoint_every == 0, is_last)
                if is_last:
                    break

    def _validate(self, row: dict[str, Any]) -> bool:
        """Validate every average, and keep the best one if it is good. Returns whether patience has run out."""
        half_life, validation = _find_best(self.state, self.generator, self.validate, self.workers)
        row |= validation.row() | {"ema_half_life": half_life}
        phase, later = _split_phases(self.phases, row["phase"])
        if phase.is_preparation:
            return False
        returns = any(phase.starts_from_best for phase in later)
        self.state.keep_if_best(half_life, validation.scores, self.cfg.validation.tolerance, returns)
        row["validation_kept"] = int(self.state.best.turn == self.state.turn)
        return self.patience.is_over(self.state)

    def _save(self, stop: StopRequest, is_due: bool, is_last: bool = False) -> None:
        """Save a checkpoint if one is due, or if a process has received a signal, and end the run after a signal."""
        is_stopped = self.workers.any(bool(stop))
        if is_due or is_stopped:  # in every process, since each may have to send its shards
            self.scratch.save(self.state.state_dict(), self.unsaved, is_due, writes=self.workers.is_main)
            self.unsaved = []
        if is_stopped and not is_last:
            self.scratch.wait()
            stop.end()


def _load_state(nets: Networks, cfg: TrainConfig, scratch: Scratch, workers: Workers) -> TrainState:
    """Return the state of the last checkpoint; that of a new run without one."""
    state = TrainState(nets, cfg)
    workers.from_main(scratch.start)
    if checkpoint := scratch.load(starts=False):
        state.load_state_dict(checkpoint)
    return state


def _find_best(
    state: TrainState, generator: Callable[[int], Generator], validate: Validate, workers: Workers
) -> tuple[int, Validation]:
    """Validate every average, by all processes. Returns the half-life of the best one and its scores."""
    validations: dict[int, Validation] = {}
    for half_life in state.averages:
        validation = validate(generator(half_life), state.turn)
        validations[half_life] = workers.from_main(lambda own=validation: own)  # all must go on in the same way
    best = min(validations, key=lambda half_life: fmean(validations[half_life].scores))
    return best, validations[best]


def _split_phases(phases: tuple[Phase, ...], name: str) -> tuple[Phase, tuple[Phase, ...]]:
    """The phase of that name, and the phases after it."""
    place = [phase.name for phase in phases].index(name)
    return phases[place], phases[place + 1 :]


@dataclass(frozen=True)
class Patience:
    """Ends the last phase at the first validation after a number of generator turns without a better generator.

    Earlier phases always run to their end.
    """

    turns: int  # 0: never end early
    start: int  # generator turns before the last phase
    every: int  # generator turns between validations

    @classmethod
    def of(cls, cfg: TrainConfig, phases: tuple[Phase, ...]) -> "Patience":
        """Convert the patience of the parameters from validations to generator turns."""
        counts = [phase.generator_turns for phase in phases if phase.generator_turns]
        return cls(cfg.patience * cfg.validate_every, sum(counts[:-1]), cfg.validate_every)

    def is_over(self, state: TrainState) -> bool:
        """Whether the run must end now. A run that resumes between two validations ends where it would have ended."""
        if self.turns == 0 or state.turn % self.every or state.turn <= self.start:
            return False
        return state.turn - max(state.best.turn, self.start) >= self.turns


class PhaseProgress:
    """A progress line for each phase, since turns of different phases take different times, and one live log."""

    def __init__(self, phases: Iterable[Phase], turn: int, is_visible: bool) -> None:
        """turn: generator turns before this process started, over all phases."""
        self.is_visible = is_visible
        self.phases = {phase.name: phase for phase in phases}
        self.turn, self.live = turn, LiveLog("train")
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
        self.live.write(row["turn"], {k: v for k, v in row.items() if k != "turn"})
        names = list(self.phases)
        before = sum(self.phases[name].generator_turns for name in names[: names.index(row["phase"])])
        line = self._line(row["phase"], max(self.turn - before, 0))
        self.validated |= {k: row[k] for k in ("validation_score",) if k in row}
        line.update(**{k: row[k] for k in PROGRESS_COLUMNS if k in row} | self.validated)

    def pause(self, pause: Pause) -> None:
        """Show the steps of a phase without generator turns."""
        if self.is_visible:
            line = self._line(pause.phase, pause.done)
            line.update(pause.done - line.done)

    def _line(self, name: str, start: int) -> Progress:
        """The line of a phase. start: turns or steps of the phase that are done when the line begins."""
        if self.current is None or self.current[0] != name:
            self.__exit__(None, None, None)
            phase, place = self.phases[name], list(self.phases).index(name) + 1
            turns = phase.generator_turns
            title = f"train, {name} ({place} of {len(self.phases)})"
            size = (turns, "turns") if turns else (phase.steps, "steps")
            self.current = (name, Progress(title, *size, start, False))
        return self.current[1]
