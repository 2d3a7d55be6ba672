"""Images clipped to their range, as they are when they become bytes, and as real ones are from the start."""

from typing import Any

import torch
from torch import Tensor


class _Clip(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(x)
        return x.clamp(-1, 1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        outwards = ((x > 1) & (grad < 0)) | ((x < -1) & (grad > 0))  # descent goes against the gradient
        return grad.masked_fill(outwards, 0)


def clip(x: Tensor) -> Tensor:
    """x clamped to [-1, 1]; a gradient that would move a value further out is zero, one that brings it back passes.

    So black is reached by any value of -1 or less, which a network can do, and not by -1 alone, which it cannot.
    """
    return _Clip.apply(x)  # type: ignore[return-value]
