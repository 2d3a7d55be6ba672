"""The training loop: yields after every generator turn; the caller logs, saves and validates.

In a phase without generator turns it yields a pause every so many steps, so that a signal is heard there too.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dmd.config import TrainConfig
from dmd.diffusion.denoiser import Cond
from dmd.distillation.divergence.signs import SPREAD, batch_spread
from dmd.distillation.inputs.reading import ReadAhead
from dmd.distillation.methods import Method
from dmd.distillation.parallel.whole_batch import backward_turn
from dmd.distillation.parallel.workers import Workers
from dmd.distillation.phases import Phase, Turn, turns_from
from dmd.distillation.state import TrainState
from dmd.distillation.turn_log import TurnLog
from dmd.training.optim import apply_gradients, learning_rate
from dmd.training.random_source import RandomSource

PAUSE_EVERY = 10  # steps of a phase without generator turns; at a pause the host waits for the device


@dataclass(frozen=True)
class Pause:
    """A place between two steps of a phase without generator turns, at which a checkpoint loses nothing."""

    phase: str
    done: int  # steps of the phase


def train(
    state: TrainState,
    method: Method,
    cfg: TrainConfig,
    shape: tuple[int, int, int],
    labels: Tensor | None,
    workers: Workers,
) -> Iterator[dict[str, Any]]:
    """Yield only the rows of `advance`, one after each generator turn. Arguments and errors are those of `advance`."""
    for item in advance(state, method, cfg, shape, labels, workers):
        if not isinstance(item, Pause):
            yield item


def advance(
    state: TrainState,
    method: Method,
    cfg: TrainConfig,
    shape: tuple[int, int, int],
    labels: Tensor | None,
    workers: Workers,
) -> Iterator[dict[str, Any] | Pause]:
    """Advance `state` in place through the phases of the method; yield a row of numbers after each generator turn.

    Also yields pauses, at fixed steps of phases without generator turns, and at their beginnings and ends. The losses
    before a pause are checked: a run that ends there and resumes goes wrong where it would have gone wrong.
    shape: (C, H, W) of one image or latent; labels [N]: conditions to draw from, None for an unconditional teacher.
    Raises FloatingPointError with network, turn, step and value if a loss, gradient or image is not finite, if the
    generated images are all equal, or if the critic's loss explodes.
    """
    like = state.nets.like
    batches = Batches(cfg.seed, method.noise_shape(shape), None if labels is None else labels.to(like.device))
    phases = method.phases(cfg)
    sources = partial(_list_sources, phases, state.step, cfg.seed, workers)
    images = ReadAhead(method.data, sources(lambda phase: phase.reads_images), like.device)
    pairs = ReadAhead(method.pairs, sources(lambda phase: phase.reads_pairs), like.device)
    log = TurnLog(workers, cfg.divergence.min_spread)
    start = 0  # step at which a phase starts
    with images, pairs:
        for phase in phases:
            if state.step == start:
                state.enter(phase)
                if phase.begin is not None:
                    phase.begin(state.nets, partial(batches.draw_at, state.step, "begin", like))
            log.clear()
            if state.step - start < phase.steps and _pauses(phase, state.step - start):
                yield Pause(phase.name, state.step - start)
            while (done := state.step - start) < phase.steps:
                turns = phase.turns_at(done)
                for turn in turns:
                    for ahead in (images, pairs):
                        ahead.before((cfg.seed, state.step, turn.name))
                    take_turn(state, phase, turn, done, cfg, batches, workers, log)
                state.step += 1
                if generator_turn := next((turn for turn in turns if turn.network == "generator"), None):
                    row = {"turn": state.turn + 1, "step": state.step, "phase": phase.name} | log.read()
                    state.update_averages(generator_turn.batch_size)
                    state.critic_level.check(row, cfg.divergence.critic_factor)
                    state.turn += 1
                    yield row
                elif _pauses(phase, done + 1):
                    log.check()
                    yield Pause(phase.name, done + 1)
            start += phase.steps


def _pauses(phase: Phase, done: int) -> bool:
    """Whether there is a pause after `done` steps of a phase."""
    return not phase.generator_turns and (done % PAUSE_EVERY == 0 or done == phase.steps)


def _list_sources(
    phases: Iterable[Phase], step: int, seed: int, workers: Workers, reads: Callable[[Phase], tuple[str, ...]]
) -> Iterator[list[RandomSource]]:
    """Yield, for each turn from `step` on that reads an input, the random source of each of its parts.

    reads: a function from a phase to the names of its turns that read the input.
    """
    for at, phase, turn in turns_from(phases, step):
        if turn.name in reads(phase):
            yield [RandomSource(seed, at, turn.name, samples) for samples in workers.samples(turn.batch_size)]


@dataclass(frozen=True)
class Batches:
    """Draws the noise and the conditions of a turn."""

    seed: int
    noise_shape: tuple[int, ...]  # of one image
    labels: Tensor | None  # on the device of the networks

    def draw_at(self, step: int, name: str, like: Tensor, samples: range) -> tuple[Tensor, Cond]:
        """Noise and labels for positions of samples. name: one that no turn has, so that its numbers are its own."""
        return self.draw(RandomSource(self.seed, step, name, samples, like.device), like)

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

    The host does not wait for the device here, except for two things: fd_loss, whose eigenvalues torch checks on the
    host, and tables of captions on disk, which the host reads by the indices of the turn. A loss or gradient that is
    not finite changes no weight, and is reported when the log is read or checked.
    """
    name = turn.name
    scaler, parts = state.scalers[turn.network], workers.samples(turn.batch_size)
    state.placement.drop_gathered(state.nets.modules())
    with state.nets.only_training(turn.network) as net:
        first = next(p for p in net.parameters() if p.requires_grad)

        def draw(samples: range) -> tuple[Tensor, Cond, RandomSource]:
            rng = RandomSource(batches.seed, state.step, name, samples, first.device)
            return *batches.draw(rng, first), rng

        begin_part = partial(state.placement.begin_part, net)
        losses, values = backward_turn(phase, turn, state.nets, draw, parts, workers, scaler, begin_part)
    lr = learning_rate(turn.lr, done // turn.every, cfg.warmup_turns, phase.count(turn), phase.lr_schedule)
    lr *= state.lr_scale
    names = [name for name in losses[0] if name != SPREAD]
    by_part = torch.stack([torch.stack([part[name].detach().double() for name in names]) for part in losses])
    loss = by_part[:, names.index("total")].mean()
    spread = _spread(losses, turn.batch_size, workers) if SPREAD in losses[0] else torch.ones_like(loss)
    norm = apply_gradients(state.optimizers[turn.network], net, lr, cfg.grad_clip, loss, scaler)
    if phase.after is not None:
        state.placement.drop_gathered(state.nets.modules())
        phase.after(name, state.nets, values)
    means = dict(zip(names, by_part.nanmean(dim=0), strict=True)) | {"grad_norm": norm.double()}
    # Nobody reads the numbers of a phase without generator turns.
    numbers = {f"{name}_{key}": value for key, value in means.items()} if phase.generator_turns else {}
    # A scaler skips a step whose scaled gradient overflows, which is no error.
    log.add(
        f"{name} loss at generator turn {state.turn}, step {state.step}",
        numbers,
        loss,
        torch.zeros_like(loss) if scaler.is_enabled() else means["grad_norm"],
        spread,
    )


def _spread(losses: list[dict[str, Tensor]], images: int, workers: Workers) -> Tensor:
    """The spread of all images of a turn: a part of one image has none over images."""
    moments = torch.stack([part[SPREAD] for part in losses]).mean(dim=0)
    workers.average([moments])
    return batch_spread(moments, images)
