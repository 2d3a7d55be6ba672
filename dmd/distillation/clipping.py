"""Clipping of generated images to [-1, 1], with a gradient that lets a value return into the range."""

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
        outwards = ((x > 1) & (grad < 0)) | ((x < -1) & (grad > 0))  # descent moves against the gradient
        return grad.masked_fill(outwards, 0)


def clip(x: Tensor) -> Tensor:
    """Clamp x to [-1, 1]; drop a gradient that would move a value further out, and keep one that moves it back.

    Black then stands for every value of -1 or less, which a network can reach; it cannot reach exactly -1.
    """
    return _Clip.apply(x)  # type: ignore[return-value]
