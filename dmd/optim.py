"""The optimizer's step; learning rates and randomness as functions of a step, so that resume needs no more."""

import math

import torch
from torch import Tensor, nn


def learning_rate(base: float, turn: int, warmup: int, total: int, schedule: str) -> float:
    """Linear warm-up over `warmup` turns, then constant, or a cosine that reaches zero after `total` turns."""
    ramp = min(1.0, (turn + 1) / (warmup + 1))
    if schedule == "constant":
        return base * ramp
    return base * ramp * 0.5 * (1 + math.cos(math.pi * turn / total))


def step_rng(seed: int, step: int) -> torch.Generator:
    """The random numbers of one step, on the CPU so that every device sees the same."""
    return torch.Generator().manual_seed(seed * 1_000_003 + step)


def optimizer_step(
    optimizer: torch.optim.Optimizer, net: nn.Module, loss: Tensor, lr: float, clip: float, what: str
) -> Tensor:
    """One AdamW step at learning rate lr with the gradient clipped. Returns its norm before clipping.

    Raises FloatingPointError, before any weight changes, if the loss or the gradient is not finite.
    """
    if not loss.isfinite():
        raise FloatingPointError(f"{what} is {loss.item()}")
    optimizer.zero_grad(set_to_none=True)
    loss.backward(inputs=list(net.parameters()))  # a GAN's gradient passes through other networks, and stays in none
    norm = nn.utils.clip_grad_norm_(net.parameters(), clip)
    if not norm.isfinite():
        raise FloatingPointError(f"{what} is {loss.item()}, but its gradient has norm {norm.item()}")
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()
    return norm.detach()
