"""Optimizer steps; learning rates and randomness are functions of the step, so that resuming needs no state."""

import math

import torch
from torch import Tensor, nn
from torch.amp import GradScaler

UNSCALED = GradScaler("cpu", enabled=False)  # does nothing: gradients of fp32 and bf16 need no scaling


def learning_rate(base: float, turn: int, warmup: int, total: int, schedule: str) -> float:
    """Linear warm-up over `warmup` turns, then constant, or a cosine that reaches zero after `total` turns."""
    ramp = min(1.0, (turn + 1) / (warmup + 1))
    if schedule == "constant":
        return base * ramp
    return base * ramp * 0.5 * (1 + math.cos(math.pi * turn / total))


def step_rng(seed: int, step: int) -> torch.Generator:
    """Return the random source of one step; it is on the CPU, so that every device draws the same numbers."""
    return torch.Generator().manual_seed(seed * 1_000_003 + step)


def backward(loss: Tensor, name: str, scaler: GradScaler = UNSCALED) -> None:
    """Add the gradient of a loss to that of the parameters.

    Raises FloatingPointError, with the loss's name, if the loss is not finite.
    """
    if not loss.isfinite():
        raise FloatingPointError(f"{name} is {loss.item()}")
    scaled: Tensor = scaler.scale(loss)  # type: ignore[assignment]
    scaled.backward()


def apply_gradients(
    optimizer: torch.optim.Optimizer,
    net: nn.Module,
    lr: float,
    clip: float,
    name: str,
    scaler: GradScaler = UNSCALED,
) -> Tensor:
    """Run one optimizer step of `net` at learning rate `lr` with gradients clipped to L2 norm `clip`; clear them.

    Returns the norm before clipping. Raises FloatingPointError, with the loss's name and before any weight changes, if
    the gradient is not finite. A scaler (fp16) instead skips such a step and lowers the scale of the next, as is usual.
    """
    scaler.unscale_(optimizer)
    norm = nn.utils.clip_grad_norm_(net.parameters(), clip)
    if not norm.isfinite() and not scaler.is_enabled():
        raise FloatingPointError(f"the gradient of {name} has norm {norm.item()}")
    for group in optimizer.param_groups:
        group["lr"] = lr
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    return norm.detach()


def optimizer_step(
    optimizer: torch.optim.Optimizer, net: nn.Module, loss: Tensor, lr: float, clip: float, name: str
) -> Tensor:
    """Run `backward` and `apply_gradients` for a batch that is not split into parts."""
    backward(loss, name)
    return apply_gradients(optimizer, net, lr, clip, name)
