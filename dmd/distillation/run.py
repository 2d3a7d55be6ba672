"""One distillation from start, or from where it was interrupted, to its end: progress, checkpoints, validation."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from torch import Tensor

from dmd.config import TrainConfig
from dmd.distillation.lora import restore
from dmd.distillation.methods import Method, Networks, Phase
from dmd.distillation.trainer import TrainState, Workers, train
from dmd.generator.generator import Generator
from dmd.progress import Progress
from dmd.storage.checkpoint import Scratch
from dmd.teachers.teacher import Teacher

SHOWN = ("critic_total", "generator_dm", "generator_regression")  # beside the progress bar
Validate = Callable[[Generator, int], dict[str, float]]  # (generator, turn) -> numbers for the row of that turn


def distill(
    method: Method,
    nets: Networks,
    cfg: TrainConfig,
    teacher: Teacher,
    labels: Tensor | None,
    classes: tuple[str, ...],
    scratch: Scratch,
    validate: Validate,
    workers: Workers,
) -> tuple[Generator, int, list[dict[str, Any]]]:
    """Train to the end. Returns the averaged generator that was kept, its turn, and one row per generator turn.

    With several processes all of them train, and the main one alone validates, saves and shows progress.
    """
    state = TrainState(nets, cfg)
    if saved := scratch.load():
        state.load_state_dict(saved)
    phases = {phase.name: phase for phase in method.phases(cfg)}
    total = sum(phase.generator_turns for phase in phases.values())
    final = [phase for phase in phases.values() if phase.generator_turns][-1:]
    began = total - sum(phase.generator_turns for phase in final)

    def generator(average: int) -> Generator:
        names = classes if teacher.classes else ()
        return Generator(state.averaged(average), method.timesteps_of_generator, teacher.shape, names, teacher.codec)

    def out_of_patience() -> bool:
        """Of the last phase: an earlier one that no longer improves leaves the rest to the next."""
        without = state.turn - max(state.best["turn"], began)
        return bool(cfg.patience) and state.turn > began and without >= cfg.patience * cfg.validate_every

    # A run that was killed between its end and its export has nothing left to train.
    labels = labels if teacher.classes else None
    rows = () if out_of_patience() else train(state, method, cfg, teacher.shape, labels, workers)
    with PhaseProgress(phases.values(), state.turn, workers.is_main) as progress:
        for row in rows:
            last = state.turn == total
            if last or state.turn % cfg.validate_every == 0:
                scores = {
                    half_life: workers.from_main(partial(validate, generator(half_life), state.turn))
                    for half_life in state.averages
                }
                best = min(scores, key=lambda half_life: scores[half_life]["validation_fd"])
                row |= scores[best] | {"ema_half_life": best}
                if not phases[row["phase"]].prepares:
                    state.keep_if_best(best, row["validation_fd"], cfg.validation_tolerance)
                    last = last or out_of_patience()
            state.rows.append(row)
            progress.update(row)
            if state.turn % cfg.checkpoint_every == 0 or last:
                saved = state.state_dict()
                if workers.is_main:
                    scratch.save(saved)
            if last:
                break
    kept = generator(state.best["half_life"])
    restore(kept.denoiser, state.best["weights"])
    return kept, state.best["turn"], state.rows


class PhaseProgress:
    """A progress of its own for each phase, since their turns take different times."""

    def __init__(self, phases: Iterable[Phase], turn: int, shown: bool) -> None:
        """turn: generator turns already done, over all phases."""
        self.shown = shown
        self.names = [phase.name for phase in phases if phase.generator_turns]
        self.totals = {phase.name: phase.generator_turns for phase in phases}
        self.turn = turn
        self.current: tuple[str, Progress] | None = None

    def __enter__(self) -> "PhaseProgress":
        return self

    def __exit__(self, *exc: object) -> None:
        if self.current is not None:
            self.current[1].__exit__(*exc)

    def update(self, row: dict[str, Any]) -> None:
        """One generator turn done, with its row of numbers."""
        if not self.shown:
            return
        name = row["phase"]
        if self.current is None or self.current[0] != name:
            self.__exit__(None, None, None)
            place = self.names.index(name)
            before = sum(self.totals[n] for n in self.names[:place])
            what = f"train, {name} ({place + 1} of {len(self.names)})"
            self.current = (name, Progress(what, self.totals[name], "turns", max(self.turn - before, 0)))
        self.current[1].update(**{k: row[k] for k in SHOWN if k in row})
