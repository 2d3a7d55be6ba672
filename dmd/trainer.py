"""The distillation loop: yields after every generator turn; what to log, save and show is the caller's affair."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from dmd.config import TrainConfig
from dmd.denoisers import Cond
from dmd.ema import update_ema, warm_decay
from dmd.methods import Method, Networks, Phase
from dmd.optim import learning_rate, optimizer_step, step_rng
from dmd.sampling import draw_noise


class TrainState:
    """The networks, their optimizers and counters: all that a resumed run needs beside the teacher."""

    def __init__(self, nets: Networks, cfg: TrainConfig) -> None:
        self.step = 0  # steps done, all phases together
        self.turn = 0  # generator turns done, all phases together
        self.nets = nets
        self.ema = nets.generator.copy().requires_grad_(False)
        self.weight_decay = cfg.weight_decay
        self.rows: list[dict[str, Any]] = []
        self.best: dict[str, Any] = {"score": float("inf"), "turn": 0, "ema": {}}
        self.new_optimizers()

    def enter(self, phase: Phase) -> None:
        """Begin a phase: with its own optimizers, and from the best generator so far where the phase says so."""
        self.new_optimizers()
        if phase.from_best and self.best["ema"]:
            self.nets.generator.load_state_dict(self.best["ema"])
            self.ema.load_state_dict(self.best["ema"])

    def new_optimizers(self) -> None:
        """Moments of another loss would steer a phase's first turns."""
        self.optimizers = {
            turn: torch.optim.AdamW(self.nets.of_turn(turn).parameters(), weight_decay=self.weight_decay, fused=True)
            for turn in ("generator", "critic")
        }

    def keep_if_best(self, score: float) -> None:
        """Remember the averaged generator that has the lowest score so far."""
        if score < self.best["score"]:
            weights = {k: v.detach().clone() for k, v in self.ema.state_dict().items()}
            self.best = {"score": score, "turn": self.turn, "ema": weights}

    def state_dict(self) -> dict:
        return {
            "step": self.step,
            "turn": self.turn,
            "generator": self.nets.generator.state_dict(),
            "critic": self.nets.of_turn("critic").state_dict(),
            "ema": self.ema.state_dict(),
            "optimizers": {turn: o.state_dict() for turn, o in self.optimizers.items()},
            "rows": self.rows,
            "best": self.best,
        }

    def load_state_dict(self, state: dict) -> None:
        self.step, self.turn, self.rows, self.best = (state[k] for k in ("step", "turn", "rows", "best"))
        self.nets.generator.load_state_dict(state["generator"])
        self.nets.of_turn("critic").load_state_dict(state["critic"])
        self.ema.load_state_dict(state["ema"])
        for turn, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][turn])


def train(
    state: TrainState, method: Method, cfg: TrainConfig, shape: tuple[int, int, int], labels: Tensor | None
) -> Iterator[dict[str, Any]]:
    """Advance `state` in place through the method's phases; yields a row of numbers after each generator turn.

    shape (C, H, W) is an image's; labels [N] is what conditions are drawn from; None for an unconditional teacher.
    Raises FloatingPointError with network, turn, step and value if a loss or gradient is not finite.
    """
    start = 0  # step at which a phase begins
    for phase in method.phases(cfg):
        if state.step < start + phase.steps:
            yield from _run(state, phase, start, cfg, method.latent_shape(shape), labels)
        start += phase.steps


def _run(
    state: TrainState, phase: Phase, start: int, cfg: TrainConfig, shape: tuple[int, ...], labels: Tensor | None
) -> Iterator[dict[str, Any]]:
    """One phase, from where `state` stands to its end."""
    if state.step == start:
        state.enter(phase)
    row: dict[str, list[Tensor]] = {}
    while (done := state.step - start) < phase.steps:
        rng = step_rng(cfg.seed, state.step)
        turns = phase.turns(done)
        for turn in turns:
            z, cond = _draw(phase.batch_size, shape, labels, rng, next(state.ema.parameters()).device)
            losses = phase.loss(turn, state.nets, z, cond, rng)
            norm = _learn(state, turn, phase, done, cfg, losses["total"])
            for name, value in (losses | {"grad_norm": norm}).items():
                row.setdefault(f"{turn}_{name}", []).append(value.detach().double())
        state.step += 1
        if "generator" in turns:
            update_ema(state.ema, state.nets.generator, warm_decay(cfg.ema_decay, state.turn))
            state.turn += 1
            yield {"turn": state.turn, "step": state.step, "phase": phase.name} | _means(row)
            row = {}


def _means(row: dict[str, list[Tensor]]) -> dict[str, float]:
    """The mean of each list of scalars, moved from the device at once."""
    means = torch.stack([torch.stack(values).mean() for values in row.values()]).tolist()
    return dict(zip(row, means, strict=True))


def _draw(
    n: int, shape: tuple[int, ...], labels: Tensor | None, rng: torch.Generator, device: torch.device
) -> tuple[Tensor, Cond]:
    """Unit noise [n, *shape] and labels [n] as they occur in the data."""
    z = draw_noise(shape, n, rng).to(device)
    return z, None if labels is None else labels[torch.randint(len(labels), (n,), generator=rng)].to(device)


def _learn(state: TrainState, turn: str, phase: Phase, done: int, cfg: TrainConfig, loss: Tensor) -> Tensor:
    """One optimizer step of the network that the turn is named after. Returns its gradient's norm."""
    every = phase.every[turn]
    lr = learning_rate(phase.lr[turn], done // every, cfg.warmup_turns, phase.steps // every, phase.lr_schedule)
    what = f"{turn} loss at generator turn {state.turn}, step {state.step}"
    return optimizer_step(state.optimizers[turn], state.nets.of_turn(turn), loss, lr, cfg.grad_clip, what)
