"""Exponential moving average of weights."""

import torch
from torch import nn


@torch.no_grad()
def update_ema(ema: nn.Module, net: nn.Module, decay: float) -> None:
    """ema <- decay ema + (1 - decay) net, for the trainable parameters of `net`; buffers are copied."""
    pairs = [(e, p) for e, p in zip(ema.parameters(), net.parameters(), strict=True) if p.requires_grad]
    torch._foreach_lerp_([e for e, _ in pairs], [p for _, p in pairs], 1 - decay)
    for target, source in zip(ema.buffers(), net.buffers(), strict=True):
        target.copy_(source)


def decay_from_half_life(half_life: float, images: int) -> float:
    """Return the decay per update for a half-life in images, if `images` are seen between two updates."""
    return 0.5 ** (images / half_life)


def warm_decay(decay: float, updates: int) -> float:
    """Return the decay after `updates` updates: smaller at first, so that the average leaves its initial weights."""
    return min(decay, (1 + updates) / (10 + updates))
