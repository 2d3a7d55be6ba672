"""Memory of one process of stage `train`, counted on its own networks on the meta device without allocating it."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dmd.codecs.latents import Latents
from dmd.config import Params, TrainConfig
from dmd.diffusion.denoiser import Denoiser
from dmd.distillation.cost import TurnCost, small_method
from dmd.distillation.lora import frozen_copy
from dmd.distillation.networks import TRAINED, Networks
from dmd.distillation.parallel.sharding import blocks_of, group_size, shared_weights
from dmd.families.tables import MAX_BYTES_IN_MEMORY
from dmd.features.frozen import FrozenNetwork
from dmd.networks.half import HALVED
from dmd.teachers.teacher import Teacher
from flows.plan.activations import saved_bytes, saved_in_a_block, saved_in_heads, saved_in_trunks
from flows.plan.trunks import blank_trunks

FLOAT = 4  # bytes; weights, gradients and moments are float32 at every precision
HALF = 2
DENOISERS = ("generator", "critic")
CAST = "cast weights"
MOMENTS = 2  # moments that AdamW keeps per weight
AHEAD = 2  # blocks or layers whose weights are gathered or copied at once: the one that runs and the next


@dataclass(frozen=True)
class TrainMemory:
    """Bytes that stage `train` keeps, from which those of any number of processes and layout follow."""

    spread: Mapping[str, int]  # shared out among the processes that hold one copy of the weights
    whole: Mapping[str, int]  # the part of each entry of `spread` that every process holds: buffers, shared weights
    fixed: Mapping[str, int]  # the same in every process
    copy: int  # the weights of one whole generator
    gathered: Mapping[bool, int]  # weights gathered for the blocks that run; key: whether frozen ones are divided, too
    trained: Mapping[str, int]  # weights that train in the turn of each network
    saved: Mapping[str, tuple[int, int]]  # activations of an image, by network: of a whole pass, and up to its middle
    costs: list[TurnCost]
    params: Params

    def per_process(self, cfg: TrainConfig) -> dict[str, int]:
        """Bytes of each kind of content in one process. cfg: its processes, layout and accumulation count.

        Raises ConfigError if the layout does not fit the number of processes.
        """
        group = group_size(cfg.shard, cfg.processes)
        sizes = {k: self.whole.get(k, 0) - (-(size - self.whole.get(k, 0)) // group) for k, size in self.spread.items()}
        if group > 1:
            sizes["gathered average"] = self.copy
        if cfg.processes > 1:
            sizes["gathered blocks"] = self.gathered[group > 1]
        params = self.params.model_copy(update={"train": cfg})
        activations = max(_activations(cost, self.saved, params) for cost in self.costs)
        sizes |= {k: v for k, v in self.fixed.items() if k != CAST} | {"activations": activations}
        return sizes | {k: v for k, v in self.fixed.items() if k == CAST}


def train_memory(teacher: Teacher, params: Params, costs: list[TurnCost]) -> dict[str, int]:
    """Bytes of each kind of content. Weights that networks share count once. The teacher is on the meta device."""
    return count_memory(teacher, params, costs).per_process(params.train)


def count_memory(teacher: Teacher, params: Params, costs: list[TurnCost]) -> TrainMemory:
    """Count what stage `train` keeps. The teacher is on the meta device."""
    cfg = params.train
    trunks = blank_trunks(params, teacher.conditions - 1)
    with torch.device("meta"):
        method = small_method(params, trunks, params.method.moments.images)
        nets = method.networks(teacher, 0, (cfg.lora_rank, cfg.lora_rank_critic))
        averages = [frozen_copy(nets.generator) for _ in cfg.ema_half_lives]
    saved = _count_activations(nets, trunks, teacher, cfg)
    trainable = {n: sum(p.numel() for p in nets.trained_in(n).parameters() if p.requires_grad) for n in TRAINED}
    laid_out = list(dict.fromkeys([*nets.modules(), *(average.net for average in averages)]))
    shared = shared_weights(laid_out)
    heads = set() if nets.discriminator is None else set(nets.discriminator.parameters())
    held = _Held(shared | heads)
    held.add("teacher", teacher.denoiser)
    _shrink_teacher(held, teacher.denoiser, cfg)
    held.add("generator", nets.generator)
    held.add("critic", nets.trained_in("critic"))
    held.add("averages", *averages)
    held.set("best so far", FLOAT * _kept_weights(trainable, params, costs))
    held.set("gradients", FLOAT * max(trainable.values()))  # one network's are cleared before the other's turn
    held.set("AdamW", MOMENTS * FLOAT * sum(trainable.values()))
    further = {"critic average": nets.critic_average, "discriminator": nets.discriminator}
    for name, net in further.items():
        if net is not None:
            held.add(name, net)
    fixed = {} if not isinstance(teacher.codec, Latents) else {"VAE": count_bytes(teacher.codec)}
    if trunks:
        fixed["trunks"] = sum(count_bytes(net) for net in trunks.values())
    if nets.estimators is not None:
        fixed["statistics"] = count_bytes(nets.estimators)
    if 0 < (in_memory := pairs_bytes(teacher, params)) <= MAX_BYTES_IN_MEMORY:  # a larger store stays on disk
        fixed["pairs"] = in_memory
    if cfg.precision != "fp32" or cfg.frozen_precision == "int8":
        fixed[CAST] = _cast_bytes(nets, cfg)
    gathered = {
        False: _gathered_bytes(laid_out, lambda p: p.requires_grad),
        True: _gathered_bytes(laid_out, lambda p: p not in shared),
    }
    trained = {name: FLOAT * count for name, count in trainable.items()}
    return TrainMemory(held.sizes, held.whole, fixed, held.sizes["generator"], gathered, trained, saved, costs, params)


def _count_activations(
    nets: Networks, trunks: Mapping[str, FrozenNetwork], teacher: Teacher, cfg: TrainConfig
) -> dict[str, tuple[int, int]]:
    """Bytes that autograd saves for an image, by network: in the whole network, and up to its middle.

    With gradient checkpointing, which this function then switches on, "NAME block" holds the largest block's bytes.
    """
    saved, facts = dict[str, tuple[int, int]](), (teacher.shape, teacher.conditions)
    if cfg.gradient_checkpointing:
        blocks = _per_denoiser(nets, lambda net: (saved_in_a_block(net, *facts), 0))
        saved = {f"{name} block": size for name, size in blocks.items()}
        nets.checkpoint_gradients()
    saved |= _per_denoiser(nets, lambda net: saved_bytes(net, *facts))
    saved["trunks"] = saved_in_trunks(trunks, teacher.shape), 0
    saved["heads"] = 0 if nets.discriminator is None else saved_in_heads(nets.discriminator, teacher.shape), 0
    return saved


def _per_denoiser(nets: Networks, count: Callable[[Denoiser], tuple[int, int]]) -> dict[str, tuple[int, int]]:
    """Call `count` for generator and critic; once for both if their weights are alike, since a call takes seconds."""
    generator, critic = (
        [(p.shape, p.requires_grad) for p in net.parameters()] for net in (nets.generator, nets.critic)
    )
    first = count(nets.generator)
    return dict(zip(DENOISERS, (first, first if critic == generator else count(nets.critic)), strict=True))


class _Held:
    """Bytes of named contents; a tensor that several hold counts for the first one."""

    def __init__(self, shared: set[nn.Parameter]) -> None:
        """shared: weights that no layout divides."""
        self.sizes, self.whole = dict[str, int](), dict[str, int]()
        self.shared, self.counted = {id(p) for p in shared}, set[int]()

    def add(self, name: str, *nets: nn.Module) -> None:
        """Add the weights and buffers of networks."""
        tensors = {id(t): t for net in nets for t in (*net.parameters(), *net.buffers()) if id(t) not in self.counted}
        self.counted.update(tensors)
        whole = [t for key, t in tensors.items() if key in self.shared or not isinstance(t, nn.Parameter)]
        self.sizes[name] = sum(t.numel() * t.element_size() for t in tensors.values())
        self.whole[name] = sum(t.numel() * t.element_size() for t in whole)

    def set(self, name: str, size: int) -> None:
        """Note a number of bytes, which no process holds whole."""
        self.sizes[name] = size


def _shrink_teacher(held: _Held, teacher: nn.Module, cfg: TrainConfig) -> None:
    """Account for frozen weights of fewer bytes, and for those that stay in the memory of the CPU."""
    saved = {"fp32": 0, "bf16": halved_bytes(teacher), "int8": _quantized_bytes(teacher)}[cfg.frozen_precision]
    held.sizes["teacher"] -= saved
    held.whole["teacher"] = max(0, held.whole["teacher"] - saved)
    if cfg.offload == "teacher":
        layers = [sum(p.numel() * p.element_size() for p in m.parameters(recurse=False)) for m in teacher.modules()]
        buffers = sum(t.numel() * t.element_size() for t in teacher.buffers())
        scale = 0.5 if cfg.frozen_precision == "bf16" else 1
        held.sizes["teacher"] = buffers + round(scale * AHEAD * max(layers))
        held.whole["teacher"] = held.sizes["teacher"]


def _gathered_bytes(nets: Iterable[nn.Module], is_laid_out: Callable[[nn.Parameter], bool]) -> int:
    """Bytes of gathered weights: those of all networks outside of their blocks, and two blocks of the largest.

    A network keeps the weights outside of its blocks until the end of the turn; those of a block are dropped after it,
    while the next one is gathered already. is_laid_out: whether the processes divide a weight or exchange its gradient.
    """

    def size(module: nn.Module) -> int:
        return FLOAT * sum(p.numel() for p in module.parameters() if is_laid_out(p))

    outside, largest = 0, 0
    for net in nets:
        blocks = [size(block) for block in blocks_of(net)]
        outside += size(net) - sum(blocks)
        largest = max(largest, *blocks, 0)
    return outside + AHEAD * largest


def _kept_weights(trainable: Mapping[str, int], params: Params, costs: Iterable[TurnCost]) -> int:
    """Weights of the best generator so far: one average, or every network if a phase starts from that generator."""
    if not any(cost.phase.starts_from_best for cost in costs):
        return trainable["generator"]
    averages = len(params.train.ema_half_lives)
    critics = 2 if params.method.critic_average and trainable["critic"] else 1
    return critics * trainable["critic"] + (1 + averages) * trainable["generator"]


def halved_bytes(net: nn.Module) -> int:
    """Bytes that a network saves if the layers of `halve` hold their weights in half precision."""
    return HALF * sum(p.numel() for m in net.modules() if isinstance(m, HALVED) for p in m.parameters())


def _quantized_bytes(net: nn.Module) -> int:
    """Bytes that a network saves if `quantize` stores a byte for each weight, and for each row a scale and a zero."""
    weights = [m.weight for m in net.modules() if isinstance(m, nn.Linear)]
    return sum((FLOAT - 1) * w.numel() - (FLOAT + 1) * len(w) for w in weights)


def _cast_bytes(nets: Networks, cfg: TrainConfig) -> int:
    """Bytes of the copies of weights in the type of the arithmetic that one turn keeps.

    Autocast keeps its copies of weights that train until the turn ends. It casts a frozen weight, such as the base of
    LoRA adapters, for each use; the graph keeps that copy until backward, unless the layer is checkpointed or has its
    weights in half precision. A weight of int8 is cast for each use, too, at every precision.
    """
    weights = [p for net in (nets.generator, nets.critic) for p in net.parameters()]
    if cfg.precision == "fp32":
        linear = (m.weight for net in (nets.generator, nets.critic) for m in net.modules() if isinstance(m, nn.Linear))
        return 0 if cfg.gradient_checkpointing else FLOAT * sum(w.numel() for w in linear if not w.requires_grad)
    without_frozen = cfg.gradient_checkpointing or cfg.frozen_precision == "bf16"
    return HALF * sum(p.numel() for p in weights if p.requires_grad or not without_frozen)


def pairs_bytes(teacher: Teacher, params: Params) -> int:
    """Bytes of noise and image of all pairs in float32."""
    return params.pairs.count * 2 * FLOAT * torch.Size(teacher.shape).numel()


def count_bytes(net: nn.Module) -> int:
    """Bytes of the weights and buffers of a network."""
    tensors: list[Tensor] = [*net.parameters(), *net.buffers()]
    return sum(t.numel() * t.element_size() for t in tensors)


def _activations(cost: TurnCost, saved: Mapping[str, tuple[int, int]], params: Params) -> int:
    """Bytes of activations at the end of a turn's forward passes. A pass for the discriminator ends at the encoder.

    With gradient checkpointing, those of the block that the backward pass computes again are included.
    """
    cfg, passes = params.train, cost.passes
    of_trunks = passes.trunk_kept * saved["trunks"][0] + passes.heads_kept * saved["heads"][0]
    of_network, _ = saved.get(cost.turn.network, (0, 0))  # heads count by themselves
    of_block, _ = saved.get(f"{cost.turn.network} block", (0, 0))
    per_image = round(passes.kept * of_network + passes.encoder_kept * saved["critic"][1] + of_block + of_trunks)
    images = -(-cost.turn.batch_size // (cfg.processes * cfg.accumulate))
    return images * per_image // (1 if cfg.precision == "fp32" else 2)
