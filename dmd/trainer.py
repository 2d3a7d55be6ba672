"""The distillation loop: yields after every generator turn; what to log, save and show is the caller's affair."""

from collections.abc import Iterator

import torch
from torch import Tensor

from dmd.config import TrainConfig
from dmd.ema import update_ema, warm_decay
from dmd.methods import Method, Networks
from dmd.optim import learning_rate, optimizer_step, step_rng
from dmd.sampling import draw_noise
from dmd.teachers import Teacher


class TrainState:
    """The networks, their optimizers and counters: all that a resumed run needs beside the teacher."""

    def __init__(self, teacher: Teacher, cfg: TrainConfig) -> None:
        self.step = 0  # critic turns done
        self.turn = 0  # generator turns done
        self.nets = Networks(teacher.denoiser, teacher.denoiser.copy(), teacher.denoiser.copy())
        self.ema = teacher.denoiser.copy().requires_grad_(False)
        self.optimizers = {
            turn: torch.optim.AdamW(
                self.nets.of_turn(turn).parameters(), lr=lr, weight_decay=cfg.weight_decay, fused=True
            )
            for turn, lr in (("generator", cfg.lr_generator), ("critic", cfg.lr_critic))
        }
        self.rows: list[dict[str, float]] = []

    def state_dict(self) -> dict:
        return {
            "step": self.step,
            "turn": self.turn,
            "generator": self.nets.generator.state_dict(),
            "critic": self.nets.critic.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizers": {turn: o.state_dict() for turn, o in self.optimizers.items()},
            "rows": self.rows,
        }

    def load_state_dict(self, state: dict) -> None:
        self.step, self.turn, self.rows = state["step"], state["turn"], state["rows"]
        self.nets.generator.load_state_dict(state["generator"])
        self.nets.critic.load_state_dict(state["critic"])
        self.ema.load_state_dict(state["ema"])
        for turn, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][turn])


def train(
    state: TrainState, method: Method, cfg: TrainConfig, teacher: Teacher, labels: Tensor | None
) -> Iterator[dict[str, float]]:
    """Advance `state` in place until cfg.generator_turns; yields a row of numbers after each generator turn.

    labels [N] is what conditions are drawn from; None for an unconditional teacher.
    Raises FloatingPointError with network, turn, step and value if a loss or gradient is not finite.
    """
    device = next(state.ema.parameters()).device
    row: dict[str, list[float]] = {}
    while state.turn < cfg.generator_turns:
        rng = step_rng(cfg.seed, state.step)
        for turn in method.turns(state.step):
            z = draw_noise(teacher.shape, cfg.batch_size, rng).to(device)
            cond = (
                None
                if labels is None
                else labels[torch.randint(len(labels), (cfg.batch_size,), generator=rng)].to(device)
            )
            losses = method.loss(turn, state.nets, z, cond, rng)
            norm = _learn(state, turn, cfg, losses["total"], method.cfg.critic_turns)
            for name, value in losses.items():
                row.setdefault(f"{turn}_{name}", []).append(value.item())
            row.setdefault(f"{turn}_grad_norm", []).append(norm)
        state.step += 1
        if "generator" in method.turns(state.step - 1):
            update_ema(state.ema, state.nets.generator, warm_decay(cfg.ema_decay, state.turn))
            state.turn += 1
            yield {"turn": state.turn, "step": state.step} | {k: sum(v) / len(v) for k, v in row.items()}
            row = {}


def _learn(state: TrainState, turn: str, cfg: TrainConfig, loss: Tensor, critic_turns: int) -> float:
    """One optimizer step of the network that the turn is named after. Returns its gradient's norm."""
    base, done, total = {
        "generator": (cfg.lr_generator, state.turn, cfg.generator_turns),
        "critic": (cfg.lr_critic, state.step, cfg.generator_turns * critic_turns),
    }[turn]
    lr = learning_rate(base, done, cfg.warmup_turns, total, cfg.lr_schedule)
    what = f"{turn} loss at generator turn {state.turn}, step {state.step}"
    return optimizer_step(state.optimizers[turn], state.nets.of_turn(turn), loss, lr, cfg.grad_clip, what)
