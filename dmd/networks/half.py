"""Frozen networks whose linear layers and convolutions hold their weights in bfloat16, which halves their memory.

Norms, embeddings and buffers stay in float32. Such a network runs under autocast: its input is float32, and so is all
that is computed outside of it.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

# Layers that autocast runs in half precision, whatever the type of their weights.
HALVED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def halve(net: nn.Module) -> None:
    """Store the weights of linear layers and convolutions of a frozen network in bfloat16, in place.

    Adapters on these weights share them, so that all networks still hold one copy.
    """
    for module in net.modules():
        if isinstance(module, HALVED):
            module.bfloat16()


def input_type(weight: Tensor) -> torch.dtype:
    """Return the type of images for a network with this weight: float32 if the weight is in half precision."""
    return torch.promote_types(weight.dtype, torch.float32)


def own_precision(net: nn.Module, x: Tensor) -> AbstractContextManager[object]:
    """Autocast to bfloat16 if some weights of a network are stored in it and its input x is float32."""
    if x.dtype != torch.float32 or all(p.dtype != torch.bfloat16 for p in net.parameters()):
        return nullcontext()
    return torch.autocast(x.device.type, torch.bfloat16)
