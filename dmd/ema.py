"""Exponential moving average of weights."""

import torch
from torch import nn


@torch.no_grad()
def update_ema(ema: nn.Module, net: nn.Module, decay: float) -> None:
    """ema <- decay ema + (1 - decay) net, for parameters; buffers are copied."""
    for target, source in zip(ema.parameters(), net.parameters(), strict=True):
        target.lerp_(source, 1 - decay)
    for target, source in zip(ema.buffers(), net.buffers(), strict=True):
        target.copy_(source)
