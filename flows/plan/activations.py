"""Bytes that autograd keeps between forward and backward pass, counted on the meta device."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from dmd.diffusion.denoiser import Denoiser
from dmd.distillation.gan.activations import innermost
from dmd.distillation.gan.trunk_discriminator import TrunkDiscriminator
from dmd.distillation.gan.trunks import ImageTrunk
from dmd.distillation.parallel.sharding import blocks_of
from dmd.features.frozen import FrozenNetwork


def saved_bytes(net: Denoiser, shape: tuple[int, ...], classes: int) -> tuple[int, int]:
    """Bytes that autograd saves in the float32 forward pass of one image: in the whole network, and up to its middle.

    The network is on the meta device.
    """
    counter = SavedTensors(net.parameters())
    at_middle: list[int] = []
    handle = innermost(net.net).register_forward_hook(lambda *_: at_middle.append(counter.bytes))
    _pass_one(net, shape, classes, counter, [handle])
    return counter.bytes, at_middle[0]


def saved_in_a_block(net: Denoiser, shape: tuple[int, ...], classes: int) -> int:
    """Bytes that autograd saves in the float32 forward pass of one image within the block that needs most.

    With gradient checkpointing, a backward pass computes those of one block at a time again. The network is on the meta
    device, and not checkpointed.
    """
    counter = SavedTensors(net.parameters())
    before, sizes = list[int](), [0]
    handles = []
    for block in blocks_of(net.net):
        handles.append(block.register_forward_pre_hook(lambda *_: before.append(counter.bytes)))
        handles.append(block.register_forward_hook(lambda *_: sizes.append(counter.bytes - before.pop())))
    _pass_one(net, shape, classes, counter, handles)
    return max(sizes)


def _pass_one(net: Denoiser, shape: tuple[int, ...], classes: int, counter: "SavedTensors", handles: list[Any]) -> None:
    """Pass one image through a network on the meta device, then remove hooks."""
    x = torch.zeros(1, *shape, device="meta")
    t = torch.zeros(1, dtype=torch.long, device="meta")
    try:
        with counter, FusedAttention():
            net.predict(x, t, t if classes else None)
    finally:
        for handle in handles:
            handle.remove()


def saved_in_trunks(trunks: Mapping[str, FrozenNetwork], shape: tuple[int, ...]) -> int:
    """Bytes that autograd saves in the float32 passes of one image, which takes a gradient, through all networks.

    They are on the meta device. An image of latents stands for none: no frozen network of images reads them.
    """
    x = torch.zeros(1, *shape, device="meta", requires_grad=True)
    counter = SavedTensors([p for net in trunks.values() for p in net.parameters()])
    with counter, FusedAttention():
        for net in trunks.values():
            net(x)
    return counter.bytes


def saved_in_heads(discriminator: TrunkDiscriminator, shape: tuple[int, ...]) -> int:
    """Bytes that autograd saves in the float32 pass of one image through the heads on frozen networks of images.

    The discriminator is on the meta device. Heads on the teacher are left out: its activations are few and small.
    """
    x = torch.zeros(1, *shape, device="meta")
    counter = SavedTensors(discriminator.parameters())
    for trunk, heads in zip(discriminator.trunks.values(), discriminator.heads, strict=True):
        if isinstance(trunk, ImageTrunk):
            with torch.no_grad():
                levels = trunk.net(x)
            with counter:
                heads(levels, None)
    return counter.bytes


class SavedTensors(torch.autograd.graph.saved_tensors_hooks):
    """Counts the bytes that autograd saves. Each storage counts once; weights do not count."""

    def __init__(self, weights: Iterable[Tensor]) -> None:
        self.bytes = 0
        self.known = {_storage(w) for w in weights}
        self.kept: list[Tensor] = []  # keeps storages alive, since a later one may get the same address
        super().__init__(self._pack, lambda tensor: tensor)

    def _pack(self, tensor: Tensor) -> Tensor:
        if _storage(tensor) not in self.known:
            self.known.add(_storage(tensor))
            self.kept.append(tensor)
            self.bytes += tensor.untyped_storage().nbytes()
        return tensor


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


class FusedAttention(TorchFunctionMode):
    """Makes attention on the meta device save only its inputs and output, like the kernels of CPU and GPU.

    Without this mode, the meta device falls back to an implementation that saves the whole attention matrix.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention:
            return func(*args, **kwargs)
        return _Attention.apply(*(*args, *(kwargs[k] for k in ("query", "key", "value") if k in kwargs))[:3])


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = query.new_empty(*query.shape[:-1], value.shape[-1])
        ctx.save_for_backward(query, key, value, out)
        return out
