"""Memory of one process of the train stage, from its own networks on the meta device: counted, not allocated."""

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dmd.codecs.latents import Latents
from dmd.config import Params
from dmd.diffusion.denoiser import Denoiser
from dmd.distillation.cost import small_method
from dmd.distillation.gan.activations import innermost
from dmd.distillation.lora import frozen_copy
from dmd.teachers.teacher import Teacher
from flows.plan.turns import Turns, processes

FLOAT = 4  # bytes: weights, gradients and moments are float32 whatever the precision
MOMENTS = 2  # of AdamW


def train_memory(teacher: Teacher, params: Params, turns: list[Turns]) -> dict[str, int]:
    """Bytes by what they hold; teacher is on the meta device. Weights that several networks share count once."""
    cfg, method = params.train, small_method(params)
    with torch.device("meta"):
        nets = method.networks(teacher, 0, (cfg.lora_rank, cfg.lora_rank_critic))
        averages = [frozen_copy(nets.generator) for _ in cfg.ema_half_lives]
    if cfg.gradient_checkpointing:
        nets.checkpoint_gradients()
    seen: set[int] = set()
    learn = {turn: _learnt(nets.trained_in(turn)) for turn in ("generator", "critic")}
    found = {"teacher": _own(teacher.denoiser, seen)}
    if isinstance(teacher.codec, Latents):
        found["VAE"] = _own(teacher.codec, seen)
    found |= {
        "generator": _own(nets.generator, seen),
        "critic": _own(nets.trained_in("critic"), seen),
        "averages": sum(_own(net, seen) for net in averages),
        "best so far": FLOAT * learn["generator"],
        "gradients": FLOAT * max(learn.values()),  # a network's are cleared before the other's turn
        "AdamW": MOMENTS * FLOAT * sum(learn.values()),
    }
    if (n := processes(cfg.launcher)) > 1 and cfg.shard:
        copy = found["generator"]
        found = {name: size if name == "VAE" else -(-size // n) for name, size in found.items()}
        found["average looked at"] = copy
    elif n > 1:
        found["exchanged gradients"] = found["gradients"]  # flattened into one message
    if params.pairs.count:
        found["pairs"] = pairs_bytes(teacher, params)
    graphs = {net: saved_bytes(getattr(nets, net), teacher.shape, teacher.classes) for net in ("generator", "critic")}
    found["activations"] = max(_activations(t, graphs, params) for t in turns)
    if cfg.precision != "fp32":
        # Autocast keeps what it cast of the weights until the turn ends.
        found["weights cast"] = sum(p.numel() for net in (nets.generator, nets.critic) for p in net.parameters()) * 2
    return found


def pairs_bytes(teacher: Teacher, params: Params) -> int:
    """Of noise and image of every pair, float32."""
    return params.pairs.count * 2 * FLOAT * torch.Size(teacher.shape).numel()


def _own(net: nn.Module, seen: set[int]) -> int:
    """Bytes of parameters and buffers that no network before it had."""
    tensors = {id(t): t for t in (*net.parameters(), *net.buffers()) if id(t) not in seen}
    seen.update(tensors)
    return sum(t.numel() * t.element_size() for t in tensors.values())


def _learnt(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters() if p.requires_grad)


def _activations(turns: Turns, graphs: dict[str, tuple[int, int]], params: Params) -> int:
    """At a turn's end. A pass for features alone ends at them, but for networks that run to their end: there the last
    one still holds the whole network's."""
    whole, _ = graphs[turns.network]
    critic, encoder = graphs["critic"]
    last = critic if params.train.shard or params.train.gradient_checkpointing else encoder
    kept = turns.graphs * whole + (last + (turns.features - 1) * encoder if turns.features else 0)
    share = processes(params.train.launcher) * params.train.accumulate
    return -(-turns.batch // share) * round(kept) // (1 if params.train.precision == "fp32" else 2)


def saved_bytes(net: Denoiser, shape: tuple[int, ...], classes: int) -> tuple[int, int]:
    """Bytes that one image's float32 pass keeps for the backward pass: of the whole network, and up to its middle.

    The network is on the meta device, where the pass costs nothing.
    """
    x = torch.zeros(1, *shape, device="meta")
    t = torch.zeros(1, dtype=torch.long, device="meta")
    counter = SavedTensors(net.parameters())
    inner, _ = innermost(net.net)
    middle: list[int] = []
    handle = inner.register_forward_hook(lambda *_: middle.append(counter.bytes))
    try:
        with counter, FusedAttention():
            net.predict(x, t, t if classes else None)
    finally:
        handle.remove()
    return counter.bytes, middle[0]


class SavedTensors(torch.autograd.graph.saved_tensors_hooks):
    """Counts what autograd keeps, each storage once and weights not at all."""

    def __init__(self, weights: Iterable[Tensor]) -> None:
        self.bytes = 0
        self.known = {_storage(w) for w in weights}
        self.kept: list[Tensor] = []  # alive, or a later storage may have the same address
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
    """CPU and GPU have attention that keeps its inputs and output; the meta device falls back to one that keeps the
    matrix of all weights, which would be most of the estimate."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        if func is not F.scaled_dot_product_attention:
            return func(*args, **given)
        return _Attention.apply(*(*args, *(given[k] for k in ("query", "key", "value") if k in given))[:3])


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = query.new_empty(*query.shape[:-1], value.shape[-1])
        ctx.save_for_backward(query, key, value, out)
        return out
