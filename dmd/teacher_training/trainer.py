"""Trains a small teacher from scratch by the diffusion loss in the teacher's own parametrisation."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from dmd.config import TeacherConfig
from dmd.data.shards import Images
from dmd.diffusion.denoiser import Denoiser
from dmd.training.ema import update_ema, warm_decay
from dmd.training.optim import learning_rate, optimizer_step
from dmd.training.random_source import RandomSource


class TeacherState:
    """Networks, optimizer and step of a resumable training run."""

    def __init__(self, denoiser: Denoiser, cfg: TeacherConfig) -> None:
        self.step = 0
        self.denoiser = denoiser
        self.ema = denoiser.copy().requires_grad_(False)
        self.optimizer = torch.optim.AdamW(denoiser.parameters(), lr=cfg.lr, weight_decay=cfg.weight_decay, fused=True)

    def state_dict(self) -> dict:
        return {
            "step": self.step,
            "net": self.denoiser.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict) -> None:
        self.step = state["step"]
        self.denoiser.load_state_dict(state["net"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])


def train_teacher(
    state: TeacherState, cfg: TeacherConfig, images: Tensor | Images, labels: Tensor | None, null: int
) -> Iterator[dict[str, float]]:
    """Train until cfg.steps; advance `state` in place and yield a row of numbers for each step.

    images [N, C, H, W] in [-1, 1]; labels [N], None for an unconditional network; null: index of the null label.
    """
    device = next(state.denoiser.parameters()).device
    while state.step < cfg.steps:
        rng = RandomSource(cfg.seed, state.step, "teacher", range(cfg.batch_size), device)
        index = rng.fork("images", "cpu").integers(0, len(images))  # images and labels are on the CPU
        x0, drop = images[index].to(device), rng.uniform() < cfg.label_dropout
        cond = None if labels is None else labels[index].to(device).masked_fill(drop, null)
        t = rng.integers(0, state.denoiser.process.timesteps)
        loss = diffusion_loss(state.denoiser, x0, rng.noise_like(x0), t, cond)
        lr = learning_rate(cfg.lr, state.step, cfg.warmup_steps, cfg.steps, "cosine")
        norm = optimizer_step(
            state.optimizer, state.denoiser, loss, lr, cfg.grad_clip, f"teacher loss at step {state.step}"
        )
        update_ema(state.ema, state.denoiser, warm_decay(cfg.ema_decay, state.step))
        state.step += 1
        yield {"step": state.step, "loss": loss.item(), "grad_norm": norm.item()}


def diffusion_loss(denoiser: Denoiser, x0: Tensor, eps: Tensor, t: Tensor, cond: Tensor | None) -> Tensor:
    """Mean squared error of the network's own target. x0 and eps [B, C, H, W], t [B]."""
    x_t = denoiser.process.add_noise(x0, eps, t)
    return F.mse_loss(denoiser.predict(x_t, t, cond), denoiser.target(x0, eps, t))
