"""The training loop: yields after every generator turn; the caller logs, saves and validates."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dmd.config import TrainConfig
from dmd.diffusion.denoiser import Cond
from dmd.distillation.inputs.reading import ReadAhead
from dmd.distillation.methods import Method
from dmd.distillation.parallel.workers import Workers
from dmd.distillation.phases import Phase, Turn, turns_from
from dmd.distillation.state import TrainState
from dmd.distillation.turn_log import TurnLog
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
    phases = method.phases(cfg)
    ahead = ReadAhead(method.data, _image_sources(phases, state.step, cfg.seed, workers), device)
    log = TurnLog(workers)
    start = 0  # step at which a phase starts
    with ahead:
        for phase in phases:
            if state.step == start:
                state.enter(phase)
            log.clear()
            while (done := state.step - start) < phase.steps:
                turns = phase.turns_at(done)
                for turn in turns:
                    ahead.before((cfg.seed, state.step, turn.name))
                    take_turn(state, phase, turn, done, cfg, batches, workers, log)
                state.step += 1
                if generator_turn := next((turn for turn in turns if turn.network == "generator"), None):
                    numbers = log.read()
                    state.update_averages(generator_turn.batch_size)
                    state.turn += 1
                    yield {"turn": state.turn, "step": state.step, "phase": phase.name} | numbers
            start += phase.steps


def _image_sources(phases: Iterable[Phase], step: int, seed: int, workers: Workers) -> Iterator[list[RandomSource]]:
    """For each turn that draws training images, from `step` on, the random source of each of its parts."""
    for at, phase, turn in turns_from(phases, step):
        if turn.name in phase.reads_images:
            yield [RandomSource(seed, at, turn.name, samples) for samples in workers.samples(turn.batch_size)]


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
    state: TrainState,
    phase: Phase,
    turn: Turn,
    done: int,
    cfg: TrainConfig,
    batches: Batches,
    workers: Workers,
    log: TurnLog,
) -> None:
    """Run one optimizer step of a network, after `done` steps of the phase, and log the numbers of its batch.

    The host does not wait for the device here. A loss or gradient that is not finite changes no weight; the log finds
    it when it is read.
    """
    name = turn.name
    scaler, names, numbers = state.scalers[turn.network], [""], []
    parts = workers.samples(turn.batch_size)
    state.placement.begin_turn(state.nets.modules())
    with state.nets.only_training(turn.network) as net:
        first = next(net.parameters())
        for samples in parts:
            rng = RandomSource(batches.seed, state.step, name, samples, first.device)
            with workers.accelerator.autocast():
                losses = phase.loss(name, state.nets, *batches.draw(rng, first), rng)
            backward(losses["total"] / len(parts), scaler)
            names = list(losses)
            numbers.append(torch.stack([value.detach().double() for value in losses.values()]))
    state.placement.average_gradients(net.parameters(), workers)
    lr = learning_rate(turn.lr, done // turn.every, cfg.warmup_turns, phase.count(turn), phase.lr_schedule)
    by_part = torch.stack(numbers)  # [parts, numbers]
    loss = by_part[:, names.index("total")].mean()
    norm = apply_gradients(state.optimizers[turn.network], net, lr, cfg.grad_clip, loss, scaler)
    means = dict(zip(names, by_part.nanmean(dim=0), strict=True)) | {"grad_norm": norm.double()}
    # A scaler skips a step whose scaled gradient overflows, which is no error.
    log.add(
        f"{name} loss at generator turn {state.turn}, step {state.step}",
        {f"{name}_{key}": value for key, value in means.items()},
        loss,
        torch.zeros_like(loss) if scaler.is_enabled() else means["grad_norm"],
    )
