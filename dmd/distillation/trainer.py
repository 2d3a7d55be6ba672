"""The training loop: yields after every generator turn; the caller logs, saves and validates."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dmd.config import TrainConfig
from dmd.diffusion.denoiser import Cond
from dmd.distillation.methods import Method
from dmd.distillation.parallel.sharding import gather
from dmd.distillation.parallel.workers import Workers
from dmd.distillation.phases import Phase, Turn
from dmd.distillation.state import TrainState
from dmd.training.optim import apply_gradients, backward, learning_rate
from dmd.training.random_source import RandomSource


def train(
    state: TrainState,
    method: Method,
    cfg: TrainConfig,
    shape: tuple[int, int, int],
    labels: Tensor | None,
    workers: Workers,
) -> Iterator[dict[str, Any]]:
    """Advance `state` in place through the phases of the method; yield a row of numbers after each generator turn.

    shape: (C, H, W) of one image or latent; labels [N]: conditions to draw from, None for an unconditional teacher.
    Raises FloatingPointError with network, turn, step and value if a loss or gradient is not finite.
    """
    device = next(state.nets.generator.parameters()).device
    batches = Batches(cfg.seed, method.noise_shape(shape), None if labels is None else labels.to(device))
    start = 0  # step at which a phase starts
    for phase in method.phases(cfg):
        if state.step == start:
            state.enter(phase)
        row: dict[str, list[Tensor]] = {}
        while (done := state.step - start) < phase.steps:
            turns = phase.turns_at(done)
            for turn in turns:
                for name, value in take_turn(state, phase, turn, done, cfg, batches, workers).items():
                    row.setdefault(f"{turn.network}_{name}", []).append(value)
            state.step += 1
            if generator_turn := next((turn for turn in turns if turn.network == "generator"), None):
                state.update_averages(generator_turn.batch_size)
                state.turn += 1
                yield {"turn": state.turn, "step": state.step, "phase": phase.name} | _means(row, workers)
                row = {}
        start += phase.steps


@dataclass(frozen=True)
class Batches:
    """Draws the noise and the conditions of a turn."""

    seed: int
    noise_shape: tuple[int, ...]  # of one image
    labels: Tensor | None  # on the device of the networks

    def draw(self, rng: RandomSource, like: Tensor) -> tuple[Tensor, Cond]:
        """Unit noise [B, *noise_shape], and labels [B] in the proportions of the data."""
        z = rng.noise(*self.noise_shape).to(like.dtype)
        return z, None if self.labels is None else self.labels[rng.integers(0, len(self.labels))]


def take_turn(
    state: TrainState, phase: Phase, turn: Turn, done: int, cfg: TrainConfig, batches: Batches, workers: Workers
) -> dict[str, Tensor]:
    """Run one optimizer step of a network, after `done` steps of the phase. Returns the numbers of its batch."""
    name = turn.network
    scaler, numbers = state.scalers[name], []
    what = f"{name} loss at generator turn {state.turn}, step {state.step}"
    parts = workers.samples(turn.batch_size)
    state.placement.begin_turn(state.nets.modules())
    with state.nets.only_training(name) as net:
        first = next(net.parameters())
        for samples in parts:
            rng = RandomSource(batches.seed, state.step, name, samples, first.device)
            with workers.accelerator.autocast():
                losses = phase.loss(name, state.nets, *batches.draw(rng, first), rng)
            backward(losses["total"] / len(parts), what, scaler)
            numbers.append({key: value.detach().double() for key, value in losses.items()})
    state.placement.average_gradients(net.parameters(), workers)
    lr = learning_rate(turn.lr, done // turn.every, cfg.warmup_turns, phase.count(turn), phase.lr_schedule)
    norm = apply_gradients(state.optimizers[name], net, lr, cfg.grad_clip, what, scaler)
    means = {key: torch.stack([n[key] for n in numbers]).nanmean() for key in numbers[0]}
    return means | {"grad_norm": gather(norm).double()}


def _means(row: dict[str, list[Tensor]], workers: Workers) -> dict[str, float]:
    """The mean of each list of scalars over all processes, read from the device at once; nan stands for no value."""
    stacked = [torch.stack(values) for values in row.values()]
    sums = torch.stack([v.nansum() for v in stacked])
    counts = torch.stack([(~v.isnan()).double().sum() for v in stacked])
    workers.average([sums, counts])
    return dict(zip(row, (sums / counts).tolist(), strict=True))
