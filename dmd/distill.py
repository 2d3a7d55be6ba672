"""One distillation from start, or from where it was interrupted, to its end: progress, checkpoints, validation."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from dmd.checkpoint import Scratch
from dmd.config import TrainConfig
from dmd.generator import Generator
from dmd.methods import Method
from dmd.progress import Progress
from dmd.teachers import Teacher
from dmd.trainer import TrainState, train

SHOWN = ("critic_total", "generator_dm", "generator_regression")  # beside the progress bar
Validate = Callable[[Generator, int], dict[str, float]]  # (generator, turn) -> numbers for the row of that turn


def distill(
    method: Method,
    cfg: TrainConfig,
    teacher: Teacher,
    labels: Tensor | None,
    classes: tuple[str, ...],
    scratch: Scratch,
    validate: Validate,
) -> tuple[Generator, list[dict[str, Any]]]:
    """Train to the end. Returns the averaged generator of the best validation, and one row per generator turn."""
    state = TrainState(teacher, cfg)
    if saved := scratch.load():
        state.load_state_dict(saved)
    generator = Generator(state.ema, method.generator_timestep, teacher.shape, classes if teacher.classes else ())
    total = sum(phase.generator_turns for phase in method.phases(cfg))
    with Progress("train", total, "turns", state.turn) as progress:
        for row in train(state, method, cfg, teacher, labels if teacher.classes else None):
            last = state.turn == total
            if last or state.turn % cfg.validate_every == 0:
                row |= validate(generator, state.turn)
                state.keep_if_best(row["validation_fd"])
            state.rows.append(row)
            progress.update(**{k: row[k] for k in SHOWN if k in row})
            if state.turn % cfg.checkpoint_every == 0 or last:
                scratch.save(state.state_dict())
    state.ema.load_state_dict(state.best["ema"])
    return generator, state.rows
