"""The distillation loop: yields after every generator turn; what to log, save and show is the caller's affair."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn

from dmd.config import TrainConfig
from dmd.diffusion.denoiser import Cond, Denoiser
from dmd.distillation.lora import average_of, learnt, restore
from dmd.distillation.methods import TURNS, Method, Networks, Phase
from dmd.distillation.random_source import RandomSource
from dmd.distillation.sharding import reshard, several, shard, spread_moments, whole
from dmd.errors import ConfigError
from dmd.training.ema import decay_of, update_ema, warm_decay
from dmd.training.optim import apply_gradients, backward, learning_rate


class TrainState:
    """The networks, their optimizers and counters: all that a resumed run needs beside the teacher."""

    def __init__(self, nets: Networks, cfg: TrainConfig) -> None:
        self.step = 0  # steps done, all phases together
        self.turn = 0  # generator turns done, all phases together
        self.nets = nets
        # Averages of the generator by their half-life in images: which one is best, validation says.
        self.averages = {half: average_of(nets.generator) for half in cfg.ema_half_lives}
        self.sharded = cfg.shard and several()
        self.looked_at = average_of(nets.generator) if self.sharded else None  # an average, gathered
        if self.sharded:
            shard([*nets.parts(), *(average.net for average in self.averages.values())])
        self.weight_decay = cfg.weight_decay
        self.rows: list[dict[str, Any]] = []
        self.best: dict[str, Any] = {
            "score": float("inf"),
            "turn": 0,
            "weights": {},
        }  # lowest score so far, and what is kept
        fp16 = cfg.precision == "fp16"
        device = next(nets.generator.parameters()).device.type
        self.scalers = {turn: torch.amp.GradScaler(device, enabled=fp16) for turn in TURNS}
        self.new_optimizers()

    def enter(self, phase: Phase) -> None:
        """Begin a phase: with its own optimizers, and from the best generator so far where the phase says so."""
        self.new_optimizers()
        if phase.from_best and self.best["weights"]:
            for net in (self.nets.generator, *self.averages.values()):
                restore(net, self.best["weights"])

    def new_optimizers(self) -> None:
        """Moments of another loss would steer a phase's first turns."""
        self.optimizers = {
            turn: torch.optim.AdamW(
                [p for p in self.nets.of_turn(turn).parameters() if p.requires_grad],
                weight_decay=self.weight_decay,
                fused=True,
            )
            for turn in TURNS
        }

    def average(self, images: int) -> None:
        """Move every average towards the generator, which has just learnt from so many images."""
        for half_life, net in self.averages.items():
            update_ema(net, self.nets.generator, warm_decay(decay_of(half_life, images), self.turn))

    def keep_if_best(self, average: int, score: float, tolerance: float) -> None:
        """Remember an average if its score is the lowest so far, or worse by no more than the tolerance.

        On a small validation split the score is mostly noise: then the later of two is the better guess, and the
        score is there to tell a collapse. With a tolerance of 0 the lowest alone counts.
        """
        lowest = min(score, self.best["score"])
        if score <= lowest * (1 + tolerance):
            weights = {k: v.detach().clone() for k, v in self._learnt(self.averages[average]).items()}
            self.best = {"score": lowest, "turn": self.turn, "half_life": average, "weights": weights}

    def averaged(self, half_life: int) -> Denoiser:
        """An average, to make images with; where it is sharded all processes must call this, and get a copy."""
        if self.looked_at is None:
            return self.averages[half_life]
        restore(self.looked_at, self._learnt(self.averages[half_life]))
        return self.looked_at

    def _learnt(self, average: nn.Module) -> dict[str, Tensor]:
        return learnt(average, self.nets.generator)

    def state_dict(self) -> dict:
        """Of whole tensors, also where they are sharded: then all processes must call it."""
        critic = self.nets.of_turn("critic")
        return whole(
            {
                "step": self.step,
                "turn": self.turn,
                "generator": self._learnt(self.nets.generator),
                "critic": learnt(critic, critic),
                "averages": {half_life: self._learnt(net) for half_life, net in self.averages.items()},
                "optimizers": {turn: o.state_dict() for turn, o in self.optimizers.items()},
                "scalers": {turn: s.state_dict() for turn, s in self.scalers.items()},
                "rows": self.rows,
                "best": self.best,
            }
        )

    def load_state_dict(self, state: dict) -> None:
        self.step, self.turn, self.rows, self.best = (state[k] for k in ("step", "turn", "rows", "best"))
        restore(self.nets.generator, state["generator"])
        restore(self.nets.of_turn("critic"), state["critic"])
        for half_life, net in self.averages.items():
            restore(net, state["averages"][half_life])
        for turn in TURNS:
            parameters = [p for group in self.optimizers[turn].param_groups for p in group["params"]]
            self.optimizers[turn].load_state_dict(spread_moments(state["optimizers"][turn], parameters))
            self.scalers[turn].load_state_dict(state["scalers"][turn])


@dataclass(frozen=True)
class Workers:
    """How a batch is spread: over processes, and within each over parts whose gradients are added up."""

    accelerator: Accelerator
    parts: int = 1

    def samples(self, batch_size: int) -> list[range]:
        """For each part of this process, the positions of its samples in the whole batch.

        Raises ConfigError where the batch cannot be shared equally.
        """
        shares = self.accelerator.num_processes * self.parts
        if batch_size % shares:
            raise ConfigError(
                f"a batch of {batch_size} cannot be shared by {self.accelerator.num_processes} processes in "
                f"{self.parts} parts (train.accumulate): not a multiple of {shares}"
            )
        size, first = batch_size // shares, self.accelerator.process_index * self.parts
        return [range((first + part) * size, (first + part + 1) * size) for part in range(self.parts)]

    @property
    def is_main(self) -> bool:
        return self.accelerator.is_main_process

    def from_main(self, compute: Callable[[], dict[str, float]]) -> dict[str, float]:
        """What the main process computes, in all of them."""
        box = [compute() if self.is_main else {}]
        broadcast_object_list(box)
        return box[0]

    def average(self, tensors: list[Tensor]) -> None:
        """In place, the mean over processes."""
        if self.accelerator.num_processes == 1 or not tensors:
            return
        flat = torch.cat([t.flatten() for t in tensors])
        flat = self.accelerator.reduce(flat, "mean")  # one message, not one for each tensor
        for tensor, mean in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):  # type: ignore[union-attr]
            tensor.copy_(mean.view_as(tensor))


def train(
    state: TrainState,
    method: Method,
    cfg: TrainConfig,
    shape: tuple[int, int, int],
    labels: Tensor | None,
    workers: Workers,
) -> Iterator[dict[str, Any]]:
    """Advance `state` in place through the method's phases; yields a row of numbers after each generator turn.

    shape (C, H, W) is an image's; labels [N] is what conditions are drawn from; None for an unconditional teacher.
    Raises FloatingPointError with network, turn, step and value if a loss or gradient is not finite.
    """
    start = 0  # step at which a phase begins
    for phase in method.phases(cfg):
        if state.step == start:
            state.enter(phase)
        if state.step < start + phase.steps:
            yield from _run(state, phase, start, _Batches(cfg, method.latent_shape(shape), labels, workers))
        start += phase.steps


def _run(state: TrainState, phase: Phase, start: int, batches: "_Batches") -> Iterator[dict[str, Any]]:
    """One phase, from where `state` stands to its end."""
    row: dict[str, list[Tensor]] = {}
    while (done := state.step - start) < phase.steps:
        turns = phase.turns(done)
        for turn in turns:
            for name, value in batches.turn(state, phase, turn, done).items():
                row.setdefault(f"{turn}_{name}", []).append(value)
        state.step += 1
        if "generator" in turns:
            state.average(phase.batch_size["generator"])
            state.turn += 1
            yield {"turn": state.turn, "step": state.step, "phase": phase.name} | _means(row, batches.workers)
            row = {}


def _means(row: dict[str, list[Tensor]], workers: Workers) -> dict[str, float]:
    """The mean of each list of scalars, over all processes, moved from the device at once; nan stands for no value."""
    every = [torch.stack(values) for values in row.values()]
    sums, counts = torch.stack([v.nansum() for v in every]), torch.stack([(~v.isnan()).double().sum() for v in every])
    workers.average([sums, counts])
    return dict(zip(row, (sums / counts).tolist(), strict=True))


@dataclass(frozen=True)
class _Batches:
    """RandomSource the noise and conditions of a turn, and lets its network learn from them."""

    cfg: TrainConfig
    shape: tuple[int, ...]  # of the noise of one image
    labels: Tensor | None
    workers: Workers

    def turn(self, state: TrainState, phase: Phase, turn: str, done: int) -> dict[str, Tensor]:
        """One optimizer step of the network that the turn is named after. Returns the numbers of the batch."""
        scaler, numbers = state.scalers[turn], []
        what = f"{turn} loss at generator turn {state.turn}, step {state.step}"
        parts = self.workers.samples(phase.batch_size[turn])
        if state.sharded:
            reshard(state.nets.parts())
        with state.nets.learning(turn) as learner:
            for samples in parts:
                rng = RandomSource(self.cfg.seed, state.step, turn, samples)
                with self.workers.accelerator.autocast():
                    losses = phase.loss(turn, state.nets, *self._draw(rng, next(learner.parameters())), rng)
                backward(losses["total"] / len(parts), what, scaler)
                numbers.append({name: value.detach().double() for name, value in losses.items()})
        if not state.sharded:  # there the mean over processes is taken in the backward pass
            self.workers.average([p.grad for p in learner.parameters() if p.grad is not None])
        every = phase.every[turn]
        lr = learning_rate(
            phase.lr[turn], done // every, self.cfg.warmup_turns, phase.steps // every, phase.lr_schedule
        )
        norm = apply_gradients(state.optimizers[turn], learner, lr, self.cfg.grad_clip, what, scaler)
        means = {name: torch.stack([n[name] for n in numbers]).nanmean() for name in numbers[0]}
        return means | {"grad_norm": whole(norm).double()}

    def _draw(self, rng: RandomSource, like: Tensor) -> tuple[Tensor, Cond]:
        """Unit noise [B, *shape] and labels [B] as they occur in the data."""
        z = rng.noise(*self.shape).to(like.device, like.dtype)
        return z, None if self.labels is None else self.labels[rng.integers(0, len(self.labels))].to(z.device)
