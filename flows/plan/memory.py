"""Memory of one process of stage `train`, counted on its own networks on the meta device without allocating it."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dmd.codecs.latents import Latents
from dmd.config import Params
from dmd.diffusion.denoiser import Denoiser
from dmd.distillation.cost import TurnCost, small_method
from dmd.distillation.gan.activations import innermost
from dmd.distillation.lora import frozen_copy
from dmd.distillation.networks import TRAINED, Networks
from dmd.teachers.teacher import Teacher

FLOAT = 4  # bytes; weights, gradients and moments are float32 at every precision
HALF = 2
DENOISERS = ("generator", "critic")
MOMENTS = 2  # moments that AdamW keeps per weight


def train_memory(teacher: Teacher, params: Params, costs: list[TurnCost]) -> dict[str, int]:
    """Bytes of each kind of content. Weights that networks share count once. The teacher is on the meta device."""
    cfg = params.train
    with torch.device("meta"):
        nets = small_method(params).networks(teacher, 0, (cfg.lora_rank, cfg.lora_rank_critic))
        averages = [frozen_copy(nets.generator) for _ in cfg.ema_half_lives]
    if cfg.gradient_checkpointing:
        nets.checkpoint_gradients()
    counted: set[int] = set()
    trainable = {n: sum(p.numel() for p in nets.trained_in(n).parameters() if p.requires_grad) for n in TRAINED}
    sizes = {
        "teacher": _uncounted_bytes(teacher.denoiser, counted),
        "generator": _uncounted_bytes(nets.generator, counted),
        "critic": _uncounted_bytes(nets.trained_in("critic"), counted),
        "averages": sum(_uncounted_bytes(net, counted) for net in averages),
        "best so far": FLOAT * _kept_weights(trainable, params, costs),
        "gradients": FLOAT * max(trainable.values()),  # one network's gradients are cleared before the other's turn
        "AdamW": MOMENTS * FLOAT * sum(trainable.values()),
    }
    if nets.discriminator is not None:
        sizes["discriminator"] = _uncounted_bytes(nets.discriminator, counted)
    if (n := cfg.processes) > 1 and cfg.shard:
        copy = sizes["generator"]
        sizes = {name: -(-size // n) for name, size in sizes.items()} | {"gathered average": copy}
    elif n > 1:
        sizes["exchanged gradients"] = sizes["gradients"]  # flattened into one message
    if isinstance(teacher.codec, Latents):
        sizes["VAE"] = _uncounted_bytes(teacher.codec, counted)
    if params.pairs.count:
        sizes["pairs"] = pairs_bytes(teacher, params)
    saved = {name: saved_bytes(getattr(nets, name), teacher.shape, teacher.conditions) for name in DENOISERS}
    saved["discriminator"] = 0, 0  # its heads are small, and frozen trunks are not counted
    sizes["activations"] = max(_activations(cost, saved, params) for cost in costs)
    if cfg.precision != "fp32":
        sizes["cast weights"] = _cast_bytes(nets, cfg.gradient_checkpointing)
    return sizes


def _kept_weights(trainable: Mapping[str, int], params: Params, costs: Iterable[TurnCost]) -> int:
    """Weights of the best generator so far: one average, or every network if a phase starts from that generator."""
    if not any(cost.phase.starts_from_best for cost in costs):
        return trainable["generator"]
    averages = len(params.train.ema_half_lives)
    return trainable["critic"] + (1 + averages) * trainable["generator"]


def _cast_bytes(nets: Networks, checkpointed: bool) -> int:
    """Bytes of the half-precision copies of weights that one turn keeps.

    Autocast keeps its copies of weights that train until the turn ends. It casts a frozen weight, such as the base of
    LoRA adapters, for each use; the graph keeps that copy until backward, unless the layer is checkpointed.
    """
    weights = (p for net in (nets.generator, nets.critic) for p in net.parameters())
    return HALF * sum(p.numel() for p in weights if p.requires_grad or not checkpointed)


def pairs_bytes(teacher: Teacher, params: Params) -> int:
    """Bytes of noise and image of all pairs in float32."""
    return params.pairs.count * 2 * FLOAT * torch.Size(teacher.shape).numel()


def _uncounted_bytes(net: nn.Module, counted: set[int]) -> int:
    """Bytes of the parameters and buffers that are not in `counted` yet; adds them to it."""
    tensors = {id(t): t for t in (*net.parameters(), *net.buffers()) if id(t) not in counted}
    counted.update(tensors)
    return sum(t.numel() * t.element_size() for t in tensors.values())


def _activations(cost: TurnCost, saved: Mapping[str, tuple[int, int]], params: Params) -> int:
    """Bytes of activations at the end of a turn's forward passes.

    A pass for the discriminator stops at the encoder, except in networks that must run to their end: there the last
    such pass still holds the activations of the whole critic.
    """
    cfg, passes = params.train, cost.passes
    critic, encoder = saved["critic"]
    last = critic if cfg.shard or cfg.gradient_checkpointing else encoder
    for_discriminator = last + (passes.encoder_kept - 1) * encoder if passes.encoder_kept else 0
    per_image = round(passes.kept * saved[cost.turn.network][0] + for_discriminator)
    images = -(-cost.turn.batch_size // (cfg.processes * cfg.accumulate))
    return images * per_image // (1 if cfg.precision == "fp32" else 2)


def saved_bytes(net: Denoiser, shape: tuple[int, ...], classes: int) -> tuple[int, int]:
    """Bytes that autograd saves in the float32 forward pass of one image: in the whole network, and up to its middle.

    The network is on the meta device.
    """
    x = torch.zeros(1, *shape, device="meta")
    t = torch.zeros(1, dtype=torch.long, device="meta")
    counter = SavedTensors(net.parameters())
    at_middle: list[int] = []
    handle = innermost(net.net).register_forward_hook(lambda *_: at_middle.append(counter.bytes))
    try:
        with counter, FusedAttention():
            net.predict(x, t, t if classes else None)
    finally:
        handle.remove()
    return counter.bytes, at_middle[0]


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
