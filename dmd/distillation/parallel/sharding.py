"""Layout of networks over several processes, by FSDP2 for every layout.

The processes form groups. A group holds one copy of the weights: each of its processes has a share of every tensor,
and a block's weights are gathered for its forward and backward pass and dropped again. Gradients are averaged block by
block during the backward pass: scattered within a group, and summed over the groups. A group of one process holds whole
networks (replicated), one of all processes is fully sharded, and anything between is hybrid.

Over NCCL, messages and computation overlap; over gloo, on CPUs, a backward pass waits for the message of each block.

Checkpoints and exports hold whole tensors, so any number of processes can resume from them.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch.distributed as dist
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from dmd.config import Shard
from dmd.errors import ConfigError
from dmd.networks.wrapper import unwrap


class Placement:
    """The layout of networks over the processes, and what a turn must do about it. Does nothing in a single process."""

    def __init__(self, shard: Shard) -> None:
        """shard: `train.shard`. Raises ConfigError if the processes do not form groups of that size."""
        several = dist.is_available() and dist.is_initialized()
        self.processes = dist.get_world_size() if several else 1
        self.group = group_size(shard, self.processes)  # processes that hold one copy of the weights
        self.mesh: DeviceMesh | None = None

    @property
    def keeps_whole_networks(self) -> bool:
        """Whether each process holds whole networks, so that one process can sample from them by itself."""
        return self.group == 1

    def place(self, nets: Iterable[nn.Module]) -> None:
        """Lay networks out over the processes. Every process holds equal weights and calls this at the same point.

        Weights that do not train stay whole in groups of one process, since they need no exchange. So do those that
        several networks share, as networks with adapters do: FSDP would give each network a share of its own, which
        together take more memory than the one copy.
        """
        if self.processes == 1:
            return
        nets = list(dict.fromkeys(nets))
        whole = {p for net in nets for p in net.parameters() if not p.requires_grad}
        whole = whole if self.keeps_whole_networks else shared_weights(nets)
        for net in nets:
            if all(p in whole for p in net.parameters()):
                continue
            mesh = self._mesh(next(net.parameters()).device.type)
            for block in blocks_of(net):
                if any(p not in whole for p in block.parameters()):
                    fully_shard(block, mesh=mesh, ignored_params=whole)
            fully_shard(net, mesh=mesh, ignored_params=whole)

    def drop_gathered(self, nets: Iterable[nn.Module]) -> None:
        """Drop the weights that passes without gradients have gathered, so that parameters are again this process's.

        Gathered weights would hide changes of requires_grad, and optimizers must see the shares.
        """
        if self.processes > 1:
            for module in _sharded_modules(nets):
                module.reshard()

    def begin_part(self, net: nn.Module, is_last: bool) -> None:
        """Prepare a network for the passes of a part of its batch. is_last: it is the last part of this process.

        Before the last part, whole networks exchange nothing. Shares are scattered within their group after every part,
        since a whole gradient would not fit where weights are sharded, and averaged over the groups after the last one.
        """
        if self.processes == 1:
            return
        for module in _sharded_modules([net]):
            module.set_is_last_backward(is_last)
            if self.keeps_whole_networks:
                module.set_requires_gradient_sync(is_last, recurse=False)
            else:
                module.set_requires_all_reduce(is_last, recurse=False)

    def _mesh(self, device: str) -> DeviceMesh:
        """The processes as groups x processes of a group; without the first dimension if there is one group."""
        if self.mesh is None:
            groups = self.processes // self.group
            shape, names = ((groups, self.group), ("groups", "shares")) if groups > 1 else ((self.group,), ("shares",))
            self.mesh = init_device_mesh(device, shape, mesh_dim_names=names)
        return self.mesh


def group_size(shard: Shard, processes: int) -> int:
    """The number of processes that hold one copy of the weights. Raises ConfigError if it does not divide `processes`.

    shard: none for whole networks in each process, full for one copy in all of them, or the number itself.
    """
    size = {"none": 1, "full": processes}[shard] if isinstance(shard, str) else shard
    if processes % size:
        raise ConfigError(
            f"train.shard: {size} processes to a copy of the weights do not divide {processes} processes; use a "
            "divisor, full or none"
        )
    return size


def _sharded_modules(nets: Iterable[nn.Module]) -> Iterator[FSDPModule]:
    for net in nets:
        for module in net.modules():
            if isinstance(module, FSDPModule):
                yield module


def shared_weights(nets: Iterable[nn.Module]) -> set[nn.Parameter]:
    """The weights that do not train and that several of these networks hold."""
    counts = Counter(p for net in nets for p in net.parameters() if not p.requires_grad)
    return {p for p, count in counts.items() if count > 1}


def blocks_of(net: nn.Module) -> Iterator[nn.Module]:
    """The smallest blocks of a diffusers network that run one after the other; none lies inside another.

    A level of a UNet is divided into its residual blocks and the layers of its transformers: a whole level of SDXL has
    half of the network's weights.
    """
    inner = unwrap(net)
    for child in inner.children():
        for part in child if isinstance(child, nn.ModuleList) else [child]:
            if isinstance(child, nn.ModuleList) or _lists_in(part):
                yield from _divide(part)


def _divide(block: nn.Module) -> Iterator[nn.Module]:
    """The blocks in the lists of a block, or the block itself if it has none."""
    if not (lists := _lists_in(block)):
        yield block
    for part in (part for each in lists for part in each):
        yield from _divide(part)


def _lists_in(block: nn.Module) -> list[nn.ModuleList]:
    """The lists of blocks in a block. The list of layers after an attention is none: its layers are parts of it.

    A block without attention may have a list of None in the place of attentions.
    """
    if isinstance(block, Attention):
        return []
    lists = [child for child in block.children() if isinstance(child, nn.ModuleList)]
    return [each for each in lists if all(part is not None for part in each)]


def gather(value: Tensor) -> Tensor:
    """Return the whole tensor of a shard; any other tensor as it is. A collective call."""
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
