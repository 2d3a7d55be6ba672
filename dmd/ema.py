"""Exponential moving average of weights."""

import torch
from torch import nn


@torch.no_grad()
def update_ema(ema: nn.Module, net: nn.Module, decay: float) -> None:
    """ema <- decay ema + (1 - decay) net, for parameters; buffers are copied."""
    torch._foreach_lerp_(list(ema.parameters()), list(net.parameters()), 1 - decay)
    for target, source in zip(ema.buffers(), net.buffers(), strict=True):
        target.copy_(source)


def decay_of(half_life: float, images: int) -> float:
    """The decay per update for a half-life in images, where an update has learnt from `images` of them."""
    return 0.5 ** (images / half_life)


def warm_decay(decay: float, updates: int) -> float:
    """The decay after `updates` updates: a short window at first, or the average would stay near its start."""
    return min(decay, (1 + updates) / (10 + updates))
