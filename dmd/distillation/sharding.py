"""Networks too large for one GPU: their weights, gradients, moments and averages spread over the processes (FSDP2).

A process holds its share of every tensor; a block's weights are gathered for its forward and backward pass and dropped
again. Checkpoints and exports hold whole tensors, so that any number of processes can go on from them.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from dmd.diffusion.networks import unwrap


def several() -> bool:
    """Whether there are processes to share with."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def shard(nets: Iterable[nn.Module]) -> None:
    """In place, block by block. Every process must hold the same weights, and call this at the same point."""
    for net in nets:
        mesh = init_device_mesh(next(net.parameters()).device.type, (dist.get_world_size(),))
        for block in _blocks(net):
            fully_shard(block, mesh=mesh)
        fully_shard(net, mesh=mesh)


def reshard(nets: Iterable[nn.Module]) -> None:
    """Drop what a pass without gradients has gathered and kept: it would hide changes of requires_grad."""
    for net in nets:
        for module in net.modules():
            if isinstance(module, FSDPModule):
                module.reshard()


def _blocks(net: nn.Module) -> Iterator[nn.Module]:
    """The parts of a network of diffusers that run one after the other, each of them gathered by itself."""
    for child in unwrap(net).children():
        if isinstance(child, nn.ModuleList):
            yield from child


def whole(value: Any) -> Any:
    """A tensor as it is without sharding; a dictionary or list with all its tensors so. All processes must call it."""
    if isinstance(value, dict):
        return {k: whole(v) for k, v in value.items()}
    if isinstance(value, list):
        return [whole(v) for v in value]
    return value.full_tensor() if isinstance(value, DTensor) else value


def spread(value: Tensor, like: Tensor) -> Tensor:
    """A tensor, whole or a share, in the form that another one of its shape has. All processes must call it."""
    if not isinstance(like, DTensor):
        return whole(value)
    if isinstance(value, DTensor):
        return value
    return distribute_tensor(value.to(like.device, like.dtype), like.device_mesh, like.placements)


def spread_moments(state: dict[str, Any], parameters: list[Tensor]) -> dict[str, Any]:
    """An optimizer's state with the moments in the form that its parameters have."""
    moments = {
        i: {k: spread(v, parameters[i]) if isinstance(v, Tensor) and v.ndim else v for k, v in of_one.items()}
        for i, of_one in state["state"].items()
    }
    return {**state, "state": moments}
