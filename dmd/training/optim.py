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


def backward(loss: Tensor, scaler: GradScaler = UNSCALED) -> None:
    """Add the gradient of a loss to that of the parameters."""
    scaled: Tensor = scaler.scale(loss)  # type: ignore[assignment]
    scaled.backward()


def apply_gradients(
    optimizer: torch.optim.Optimizer,
    net: nn.Module,
    lr: float,
    clip: float,
    loss: Tensor,
    scaler: GradScaler = UNSCALED,
) -> Tensor:
    """Run one optimizer step of `net` at learning rate `lr` with gradients clipped to L2 norm `clip`; clear them.

    Returns the norm before clipping, [] on the device. If the loss or the norm is not finite, a fused optimizer changes
    neither weights nor moments, and the device alone decides so: the host need not wait. `check_finite` reads both
    later. A scaler (fp16) does the same, and lowers the scale of the next step.
    """
    scaler.unscale_(optimizer)
    norm = nn.utils.clip_grad_norm_(net.parameters(), clip).detach()
    if hasattr(norm, "full_tensor"):  # of a sharded network
        norm = norm.full_tensor()  # type: ignore[operator]
    for group in optimizer.param_groups:
        group["lr"] = lr
    if not scaler.is_enabled() and getattr(optimizer, "_step_supports_amp_scaling", False):  # it is a fused one
        optimizer.found_inf = 1.0 - (loss.isfinite() & norm.isfinite()).float()  # type: ignore[attr-defined]
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    return norm


def check_finite(name: str, loss: float, norm: float) -> None:
    """Raise FloatingPointError, with the loss's name, if a loss or the norm of its gradient is not finite."""
    if not math.isfinite(loss):
        raise FloatingPointError(f"{name} is {loss}")
    if not math.isfinite(norm):
        raise FloatingPointError(f"the gradient of {name} has norm {norm}")


def optimizer_step(
    optimizer: torch.optim.Optimizer, net: nn.Module, loss: Tensor, lr: float, clip: float, name: str
) -> Tensor:
    """Run `backward`, `apply_gradients` and `check_finite` for a batch that is not split into parts."""
    backward(loss)
    norm = apply_gradients(optimizer, net, lr, clip, loss.detach())
    check_finite(name, loss.item(), norm.item())
    return norm
