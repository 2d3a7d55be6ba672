"""The optimizer's step; learning rates and randomness as functions of a step, so that resume needs no more."""

import math

import torch
from torch import Tensor, nn
from torch.amp import GradScaler

UNSCALED = GradScaler("cpu", enabled=False)  # does nothing: gradients of fp32 and bf16 are in range as they are


def learning_rate(base: float, turn: int, warmup: int, total: int, schedule: str) -> float:
    """Linear warm-up over `warmup` turns, then constant, or a cosine that reaches zero after `total` turns."""
    ramp = min(1.0, (turn + 1) / (warmup + 1))
    if schedule == "constant":
        return base * ramp
    return base * ramp * 0.5 * (1 + math.cos(math.pi * turn / total))


def step_rng(seed: int, step: int) -> torch.Generator:
    """The random numbers of one step, on the CPU so that every device sees the same."""
    return torch.Generator().manual_seed(seed * 1_000_003 + step)


def backward(loss: Tensor, what: str, scaler: GradScaler = UNSCALED) -> None:
    """Add the loss's gradient to what the parameters hold. Raises FloatingPointError if the loss is not finite."""
    if not loss.isfinite():
        raise FloatingPointError(f"{what} is {loss.item()}")
    scaled: Tensor = scaler.scale(loss)  # type: ignore[assignment]
    scaled.backward()


def apply_gradients(
    optimizer: torch.optim.Optimizer,
    net: nn.Module,
    lr: float,
    clip: float,
    what: str,
    scaler: GradScaler = UNSCALED,
) -> Tensor:
    """One step at learning rate lr with the gradient clipped, and the gradient cleared. Returns its norm before that.

    Raises FloatingPointError, before any weight changes, if the gradient is not finite. With a scaler (fp16) such a
    step is left out and the next one scaled less, as is usual there.
    """
    scaler.unscale_(optimizer)
    norm = nn.utils.clip_grad_norm_(net.parameters(), clip)
    if not norm.isfinite() and not scaler.is_enabled():
        raise FloatingPointError(f"the gradient of {what} has norm {norm.item()}")
    for group in optimizer.param_groups:
        group["lr"] = lr
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    return norm.detach()


def optimizer_step(
    optimizer: torch.optim.Optimizer, net: nn.Module, loss: Tensor, lr: float, clip: float, what: str
) -> Tensor:
    """`backward` and `apply_gradients` of a batch that is taken whole."""
    backward(loss, what)
    return apply_gradients(optimizer, net, lr, clip, what)
