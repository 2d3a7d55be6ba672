"""Exponential moving average of weights."""

import torch
from torch import Tensor, nn


@torch.no_grad()
def update_ema(ema: nn.Module, net: nn.Module, decay: float) -> None:
    """ema <- decay ema + (1 - decay) net, for the trainable parameters of `net`; buffers are copied.

    Buffers that both share, such as tables of captions, stay as they are.
    """
    pairs = [(own(e), own(p)) for e, p in zip(ema.parameters(), net.parameters(), strict=True) if p.requires_grad]
    torch._foreach_lerp_([e for e, _ in pairs], [p for _, p in pairs], 1 - decay)
    for target, source in zip(ema.buffers(), net.buffers(), strict=True):
        if target.data_ptr() != source.data_ptr():  # the host knows the address: no wait for the device
            target.copy_(source)


@torch.no_grad()
def interpolate(net: nn.Module, towards: nn.Module, weight: float) -> None:
    """net <- weight net + (1 - weight) towards, for parameters that train in both; buffers stay as they are."""
    others = {name: own(p) for name, p in towards.named_parameters() if p.requires_grad}
    pairs = [(own(p), others[name]) for name, p in net.named_parameters() if p.requires_grad and name in others]
    torch._foreach_lerp_([p for p, _ in pairs], [other for _, other in pairs], 1 - weight)


def own(tensor: Tensor) -> Tensor:
    """This process's part of a tensor that is laid out over several, without a copy; any other tensor as it is."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor  # type: ignore[operator]


def decay_from_half_life(half_life: float, images: int) -> float:
    """Return the decay per update for a half-life in images, if `images` are seen between two updates."""
    return 0.5 ** (images / half_life)


def warm_decay(decay: float, updates: int) -> float:
    """Return the decay after `updates` updates: smaller at first, so that the average leaves its initial weights."""
    return min(decay, (1 + updates) / (10 + updates))
