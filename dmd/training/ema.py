"""Exponential moving average of weights."""

import torch
from torch import nn


@torch.no_grad()
def update_ema(ema: nn.Module, net: nn.Module, decay: float) -> None:
    """ema <- decay ema + (1 - decay) net, for the parameters that net learns; buffers are copied."""
    pairs = [(e, p) for e, p in zip(ema.parameters(), net.parameters(), strict=True) if p.requires_grad]
    torch._foreach_lerp_([e for e, _ in pairs], [p for _, p in pairs], 1 - decay)
    for target, source in zip(ema.buffers(), net.buffers(), strict=True):
        target.copy_(source)


def decay_of(half_life: float, images: int) -> float:
    """The decay per update for a half-life in images, where an update has learnt from `images` of them."""
    return 0.5 ** (images / half_life)


def warm_decay(decay: float, updates: int) -> float:
    """The decay after `updates` updates: a short window at first, or the average would stay near its start."""
    return min(decay, (1 + updates) / (10 + updates))
