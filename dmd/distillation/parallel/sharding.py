"""Layout of networks over several processes: whole in each (Replicated), or a share in each (Sharded, FSDP2).

With sharding, a process holds its share of every tensor; a block's weights are gathered for its forward and backward
pass and dropped again. Checkpoints and exports hold whole tensors, so any number of processes can resume from them.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from dmd.distillation.parallel.workers import Workers
from dmd.networks.wrapper import unwrap


class Placement(Protocol):
    """The operations that depend on how networks are laid out over the processes."""

    keeps_whole_networks: bool  # whether a network can sample as it is

    def place(self, nets: Iterable[nn.Module]) -> None:
        """Lay networks out over the processes. Every process holds equal weights and calls this at the same point."""
        ...

    def begin_turn(self, nets: Iterable[nn.Module]) -> None:
        """Prepare networks for a turn that may train another network than the turn before."""
        ...

    def average_gradients(self, parameters: Iterable[Tensor], workers: Workers) -> None:
        """Average the gradients of parameters over the processes."""
        ...


class Replicated:
    """Whole networks in every process; their gradients are averaged after the backward pass."""

    keeps_whole_networks = True

    def place(self, nets: Iterable[nn.Module]) -> None:
        """Do nothing: the networks are already whole."""

    def begin_turn(self, nets: Iterable[nn.Module]) -> None:
        """Do nothing: no weights were gathered."""

    def average_gradients(self, parameters: Iterable[Tensor], workers: Workers) -> None:
        """Average all gradients in one message."""
        workers.average([p.grad for p in parameters if p.grad is not None])


class Sharded:
    """A share of every tensor in each process."""

    keeps_whole_networks = False

    def place(self, nets: Iterable[nn.Module]) -> None:
        """Shard in place, block by block."""
        for net in nets:
            mesh = init_device_mesh(next(net.parameters()).device.type, (dist.get_world_size(),))
            for block in _blocks(net):
                fully_shard(block, mesh=mesh)
            fully_shard(net, mesh=mesh)

    def begin_turn(self, nets: Iterable[nn.Module]) -> None:
        """Drop weights that a pass without gradients has gathered: they would hide changes of requires_grad."""
        for net in nets:
            for module in net.modules():
                if isinstance(module, FSDPModule):
                    module.reshard()

    def average_gradients(self, parameters: Iterable[Tensor], workers: Workers) -> None:
        """Do nothing: FSDP averages in the backward pass."""


def placement(shard: bool) -> Placement:
    """Sharded if `shard` is true and there are several processes, otherwise Replicated."""
    several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    return Sharded() if shard and several else Replicated()


def _blocks(net: nn.Module) -> Iterator[nn.Module]:
    """The blocks of a diffusers network that run one after the other."""
    for child in unwrap(net).children():
        if isinstance(child, nn.ModuleList):
            yield from child


def gather(value: Any) -> Any:
    """Return a tensor, dictionary or list with every shard replaced by the whole tensor. A collective call."""
    if isinstance(value, dict):
        return {k: gather(v) for k, v in value.items()}
    if isinstance(value, list):
        return [gather(v) for v in value]
    return value.full_tensor() if isinstance(value, DTensor) else value


def to_placement_of(like: Tensor, value: Tensor) -> Tensor:
    """`value`, whole or a shard, laid out over the processes as `like` is. A collective call."""
    if not isinstance(like, DTensor):
        return gather(value)
    if isinstance(value, DTensor):
        return value
    return distribute_tensor(value.to(like.device, like.dtype), like.device_mesh, like.placements)


def place_moments(state: Mapping[str, Any], parameters: list[Tensor]) -> dict[str, Any]:
    """An optimizer's state dict with its moments laid out as their parameters are."""
    moments = {
        i: {k: to_placement_of(parameters[i], v) if isinstance(v, Tensor) and v.ndim else v for k, v in entries.items()}
        for i, entries in state["state"].items()
    }
    return {**state, "state": moments}
