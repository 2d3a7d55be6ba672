"""Ends a training that goes wrong, or rolls it back to the last good checkpoint with lower learning rates.

A run rolls back only to checkpoints at fixed turns. Signals and kills therefore do not change the result: a continued
run goes wrong at the same turn, and rolls back to the same checkpoint.
"""

import sys

from dmd.config import TrainConfig
from dmd.distillation.parallel.workers import Workers
from dmd.distillation.state import TrainState
from dmd.storage.checkpoint import Scratch
from dmd.storage.events import describe


class Recovery:
    """Ends a training that goes wrong, or rolls it back, as train.on_divergence says."""

    def __init__(self, cfg: TrainConfig, scratch: Scratch, workers: Workers) -> None:
        self.cfg, self.scratch, self.workers = cfg, scratch, workers

    @property
    def rolls_back(self) -> bool:
        """Whether the parameters allow any roll-back."""
        return self.cfg.on_divergence == "roll_back" and self.cfg.divergence.rollbacks > 0

    def begin(self, state: TrainState) -> None:
        """Save a new run before its first turn, so that it has a checkpoint to roll back to."""
        if self.rolls_back and state.step == 0:
            self.scratch.save(state.state_dict(), writes=self.workers.is_main)

    def recover(self, state: TrainState, error: FloatingPointError) -> bool:
        """Roll `state` back to the last good checkpoint, and record the event; every process calls this.

        error: what went wrong. Returns False if the run must end with its best generator so far. Raises `error` if it
        must end and no generator has been validated.
        """
        turn, problem, events = state.turn, str(error), list(state.events)
        is_allowed = self.rolls_back and len(events) < self.cfg.divergence.rollbacks
        if is_allowed:
            self.workers.from_main(self.scratch.wait)  # all processes read what the main one has written
            state.load_state_dict(self.scratch.roll_back())
            rate = f"learning rates times {self.cfg.divergence.lr_factor ** (len(events) + 1):.3g}"
            action = f"the run rolled back to turn {state.turn}, {rate}"
        elif state.best.turn:
            action = f"the run ended; its generator is the best one before, of turn {state.best.turn}"
        else:
            raise error
        state.events = [*events, {"turn": turn, "problem": problem, "action": action}]
        if self.workers.is_main:
            print(f"note: {describe(state.events[-1])}", file=sys.stderr, flush=True)
        return is_allowed
