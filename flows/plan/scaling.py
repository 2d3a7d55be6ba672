"""Time, memory and cost of stage `train` on 1 to 1,024 GPUs, for the batches of the parameters.

A turn takes the time of its passes on a GPU's share of the batch, of the messages that the backward pass does not hide,
and of the optimizer; it takes no less than the host's own time. The number of GPUs must divide every batch, so a batch
bounds it.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import reduce

from dmd.codecs.latents import Latents
from dmd.config import Params, Shard, TrainConfig
from dmd.distillation.cost import TurnCost
from dmd.distillation.parallel.sharding import blocks_of, group_size
from dmd.teachers.teacher import Teacher
from flows.plan.devices import Target, pass_time
from flows.plan.memory import FLOAT, TrainMemory, count_memory
from flows.plan.passes import backward_passes, forward_passes
from flows.plan.throughput import PassTime, count_operations

GIB = 2**30
MACHINE = 8  # GPUs of a machine, joined by their links
NETWORK = 25e9  # bytes/s each way between machines for each of their GPUs: 200 Gbit/s InfiniBand, as in a DGX A100
REACHED = 0.8  # share of a link's speed that collectives reach; chosen here
LATENCY = 15e-6  # seconds of a step of a collective; it takes log2(processes) steps; chosen here
HOST = 0.015  # seconds of a turn that the host takes at least, however fast the GPUs are; chosen here
UPDATE_BYTES = 40  # read and written for a trained weight: AdamW's weight, gradient and moments, then an average
ROOM = 0.9  # share of a GPU's memory that the counted contents may take; the rest is for what is not counted


@dataclass(frozen=True)
class Links:
    """The speed of messages between processes."""

    bandwidth: float  # bytes/s each way in collectives within a machine
    network: float  # bytes/s each way for each process between machines
    machine: int  # processes of a machine
    latency: float  # seconds of a step
    overlap: bool  # whether messages run beside the passes

    @classmethod
    def of(cls, target: Target) -> "Links":
        """Return the links between the GPUs of a target."""
        return cls(REACHED * target.device.link * 1e9, REACHED * NETWORK, MACHINE, LATENCY, overlap=True)

    def seconds(self, size: float, processes: int, messages: int) -> float:
        """Seconds of a reduction or of a gathering of `size` bytes over processes, in a number of messages.

        Each process sends (n - 1) / n of the bytes. Between machines, all of a machine's processes send their part of
        them at once, but no faster than they exchange it among themselves.
        """
        if processes == 1:
            return 0.0
        speed = self.bandwidth if processes <= self.machine else min(self.bandwidth, self.machine * self.network)
        steps = math.ceil(math.log2(processes))
        return size * (processes - 1) / processes / speed + messages * steps * self.latency


@dataclass(frozen=True)
class Load:
    """The work of the turns of a run, which does not depend on the number of processes."""

    costs: list[TurnCost]
    weights: int  # bytes of one denoiser
    trained: dict[str, int]  # bytes of the weights that train in the turn of each network
    blocks: int  # messages into which FSDP2 divides the gradients of a network
    checkpointing: bool

    @classmethod
    def of(cls, teacher: Teacher, params: Params, costs: list[TurnCost], memory: TrainMemory) -> "Load":
        """Count the work. The teacher is on the meta device."""
        weights = FLOAT * sum(p.numel() for p in teacher.denoiser.parameters())
        blocks = 1 + len(list(blocks_of(teacher.denoiser.net)))
        return cls(costs, weights, dict(memory.trained), blocks, params.train.gradient_checkpointing)

    def seconds(self, cfg: TrainConfig, each: PassTime, links: Links, memory_speed: float) -> float:
        """Seconds of all turns. cfg: processes, layout and parts of a batch; memory_speed: bytes/s of the memory."""
        return sum(cost.count * self._turn(cost, cfg, each, links, memory_speed) for cost in self.costs)

    def _turn(self, cost: TurnCost, cfg: TrainConfig, each: PassTime, links: Links, memory_speed: float) -> float:
        group = group_size(cfg.shard, cfg.processes)
        images = cost.turn.batch_size / cfg.processes
        forward, backward = forward_passes(cost.passes), backward_passes(cost.passes)
        again = backward if self.checkpointing else 0
        passes = images * ((forward + again) * each.forward + backward * each.backward)
        groups, gradients = cfg.processes // group, self.trained[cost.turn.network]
        gathers = (forward + again + backward) * cfg.accumulate
        shared = links.seconds(gathers * self.weights, group, round(gathers * self.blocks))
        shared += links.seconds(gradients * cfg.accumulate, group, self.blocks * cfg.accumulate)
        # Each process of a group sends its own part between the groups, and has its own part of the network for it.
        outside = replace(links, machine=max(1, links.machine // group))
        messages = shared + 2 * outside.seconds(gradients / group, groups, self.blocks)
        hidden = images / cfg.accumulate * backward * each.backward + (passes if group > 1 else 0)
        # The messages of the block that a backward pass ends with have nothing to hide behind.
        waiting = max(messages - hidden, messages / self.blocks) if links.overlap else messages
        update = gradients / group * UPDATE_BYTES / FLOAT / memory_speed
        return max(passes + waiting + update, HOST)


@dataclass(frozen=True)
class Row:
    """A run on a number of GPUs."""

    gpus: int
    shard: Shard
    accumulate: int
    memory: int  # bytes per GPU
    hours: float
    gpu_hours: float
    share: float  # of the speed of as many single GPUs of unlimited memory


class Scaling:
    """Plans stage `train` for any number of GPUs of a kind."""

    def __init__(self, teacher: Teacher, params: Params, costs: list[TurnCost], target: Target) -> None:
        """teacher: on the meta device."""
        self.params, self.target = params, target
        self.memory = count_memory(teacher, params, costs)
        self.load = Load.of(teacher, params, costs, self.memory)
        kind = "latents" if isinstance(teacher.codec, Latents) else "pixels"
        self.each = pass_time(count_operations(teacher), params, target, kind)
        self.batches = sorted({cost.turn.batch_size for cost in costs})
        self.one = self.hours(self._with(1, "none", 1))

    def rows(self, counts: Iterable[int]) -> list[Row | None]:
        """For each count, the run on the most GPUs up to it that divide the batches; None if it fits in no layout."""
        return [self.row(self.usable(count)) for count in counts]

    def usable(self, count: int) -> int:
        """The largest number of GPUs, up to `count`, that divides every batch."""
        common = reduce(math.gcd, self.batches)
        return max(n for n in range(1, min(count, common) + 1) if common % n == 0)

    def row(self, gpus: int) -> Row | None:
        """The fastest run on this number of GPUs that fits their memory; None if none fits."""
        rows = [row for shard in _layouts(gpus) if (row := self._fit(gpus, shard)) is not None]
        return min(rows, key=lambda row: row.hours, default=None)

    def hours(self, cfg: TrainConfig) -> float:
        """Hours of stage `train` with these processes."""
        speed = REACHED * self.target.device.bandwidth * 1e12
        return self.load.seconds(cfg, self.each, Links.of(self.target), speed) / 3600

    def _fit(self, gpus: int, shard: Shard) -> Row | None:
        """The run with the fewest parts of a batch that fits the memory."""
        share = reduce(math.gcd, self.batches) // gpus
        for parts in (n for n in range(1, share + 1) if share % n == 0):
            cfg = self._with(gpus, shard, parts)
            size = sum(self.memory.per_process(cfg).values())
            if size <= ROOM * self.target.device.memory * GIB:
                hours = self.hours(cfg)
                return Row(gpus, shard, parts, size, hours, gpus * hours, self.one / (gpus * hours))
        return None

    def _with(self, gpus: int, shard: Shard, accumulate: int) -> TrainConfig:
        changes = {"processes": gpus, "shard": shard, "accumulate": accumulate}
        return self.params.train.model_copy(update=changes)


def _layouts(gpus: int) -> list[Shard]:
    """The layouts to choose from: whole networks, shares within a machine, and shares over all GPUs."""
    hybrid: list[Shard] = [MACHINE] if gpus > MACHINE and gpus % MACHINE == 0 else []
    return ["none", *hybrid, "full"] if gpus > 1 else ["none"]
