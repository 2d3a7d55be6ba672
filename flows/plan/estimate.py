"""Estimates for --dry-run: size of each stage's work, memory and time of the stages that run the teacher's networks.

Nothing is trained and nothing is written.
"""

import textwrap
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from dmd.codecs.latents import Latents
from dmd.config import Params
from dmd.device import choose_device
from dmd.distillation.cost import TurnCost, turn_costs
from dmd.teachers.teacher import Teacher
from flows.plan.devices import Target, pass_time, spread
from flows.plan.images import read_manifest
from flows.plan.memory import FLOAT, pairs_bytes, train_memory
from flows.plan.network_config import blank_teacher, blank_text_encoders, teacher_configs
from flows.plan.passes import backward_passes, forward_passes, passes_per_prediction
from flows.plan.sampling import ENCODE, sampling_memory, total_bytes
from flows.plan.sizes import baseline_passes, encoded_size, evaluated_images, passes_of, stage_sizes
from flows.plan.throughput import PassTime, count_operations, measure_pass_time
from flows.plan.trunks import missing_trunks
from flows.plan.units import DIGITS, amount, duration, rounded

TIMED = {"teacher", "baseline", "pairs", "train", "evaluate"}  # stages that pass images through teacher or student
STARTUP = 5  # seconds until a stage has imported torch and diffusers: 2 to 6 in the runs of the default parameters
LONGEST_ON_CPU = 60 * 86400  # seconds; nobody trains longer on a CPU
EXAMPLE = "h100x8"
GIB = 2**30
WIDTH = 110  # characters per line
NO_BREAK = "\N{NO-BREAK SPACE}"
NOT_COUNTED = "libraries, buffers of single operations, text encoders, data, evaluators"
NOT_TIMED = (
    "data, decoding of latents, evaluators, frozen networks of discriminators, validation, training of a VAE or a "
    "trunk; other load on the machine"
)


@dataclass(frozen=True)
class Estimate:
    """The size of each stage's work, by its name, and lines about memory and time."""

    stages: dict[str, str]
    summary: list[str]


def estimate(
    params: Params,
    root: Path,
    runs: set[str],
    missing: Mapping[str, str],
    preset: str | None = None,
    memory: bool = True,
    on: Target | None = None,
) -> Estimate:
    """Estimate the sizes of all stages, the memory of those with large networks, and the time of those in `runs`.

    missing: parameters that still need a value, each with a description
    preset: name of the preset that params come from
    memory: whether to estimate the memory
    on: GPUs to estimate for; None for this machine
    """
    params = params if on is None else spread(params, on)
    costs = turn_costs(params)
    stages = stage_sizes(params, root, costs)
    manifest = read_manifest(params, root)
    try:
        configs = teacher_configs(params, root, preset, missing)
        class_count = None if manifest is None else len(manifest["class_names"])
        blank = partial(blank_teacher, params, configs, class_count=class_count)
        teacher = blank(torch.device("meta"))
    except Exception as e:  # diffusers raises many types for a configuration that it cannot build
        return Estimate(stages, [f"memory and time: unknown, {' '.join(str(e).split())}"])
    weights = sum(p.numel() for p in teacher.denoiser.parameters())
    stages["teacher"] += f"; {weights:,} parameters, {amount(FLOAT * weights)}"
    stages["encode"] = encoded_size(teacher, params)
    stages["pairs"] += f", {amount(pairs_bytes(teacher, params))}" if params.pairs.count else ""
    stages["train"] += f"; writes {amount(FLOAT * weights)}"
    summary = _memory(teacher, params, costs, on) if memory else []
    if memory:
        encoders = blank_text_encoders(params, configs, class_count)
        summary += sampling_lines(sampling_memory(teacher, encoders, params), params, on)
    if not runs & TIMED:
        return Estimate(stages, [*summary, "time: none, no stage passes images through teacher or student"])
    each = _time_of_pass(blank, teacher, params, on)
    seconds = stage_seconds(params, costs, each)
    return Estimate(stages, summary + time_lines(seconds, runs, params, each, on))


def _time_of_pass(
    blank: Callable[[torch.device], Teacher], teacher: Teacher, params: Params, on: Target | None
) -> PassTime:
    """The time of a pass, measured on this machine, or computed for other GPUs; `teacher` is on the meta device."""
    if on is None:
        share = params.train.processes * params.train.accumulate
        batch = -(-params.train.batch_size // share)
        return measure_pass_time(blank, batch, params.train.precision, params.runtime)
    kind = "latents" if isinstance(teacher.codec, Latents) else "pixels"
    if params.train.shard != "none":
        kind = "sharded"
    return pass_time(count_operations(teacher), params, on, kind)


def _memory(teacher: Teacher, params: Params, costs: list[TurnCost], on: Target | None) -> list[str]:
    """The lines about memory; the teacher is on the meta device."""
    missing = missing_trunks(params, teacher.conditions - 1)
    return memory_lines(train_memory(teacher, params, costs), params, on, missing)


def memory_lines(
    sizes: Mapping[str, int], params: Params, on: Target | None = None, missing: Collection[str] = ()
) -> list[str]:
    """Lines with the memory of one process of stage `train`, its parts, and the parts that are not counted.

    missing: names of frozen networks whose weights are not on this machine.
    """
    parts = ", ".join(_list_sizes(sizes)).replace(" ", NO_BREAK).replace(f",{NO_BREAK}", ", ")
    on_gpu = on is not None or _device_type(params) == "cuda" or params.train.processes > 1
    return [
        _memory_line("train", sum(sizes.values()), on_gpu, on, "raise train.accumulate or set train.shard"),
        *(f"  {line}".replace(NO_BREAK, " ") for line in textwrap.wrap(parts, WIDTH)),
        f"  not counted: {', '.join([NOT_COUNTED, *missing])}",
    ]


def sampling_lines(sizes: Mapping[str, Mapping[str, int]], params: Params, on: Target | None = None) -> list[str]:
    """A line for each other stage that runs networks of the teacher, with the memory of one process and its parts."""
    on_gpu, lines = on is not None or _device_type(params) == "cuda", list[str]()
    for stage, contents in sizes.items():
        if not contents:
            continue
        half = getattr(params, stage).precision == "bf16"
        remedy = f"lower {stage}.batch_size, or use a larger GPU" if half else f"set {stage}.precision to bf16"
        line = _memory_line(stage, total_bytes(stage, contents), on_gpu, on, remedy)
        lines.append(f"{line} ({(', then ' if stage == ENCODE else ', ').join(_list_sizes(contents))})")
    return lines


def _list_sizes(sizes: Mapping[str, int]) -> list[str]:
    return [f"{name} {amount(size, DIGITS)}" for name, size in sizes.items()]


def _memory_line(stage: str, total: int, on_gpu: bool, on: Target | None, remedy: str) -> str:
    """The memory of one process of a stage, and whether a GPU has it. remedy: what to do if it has less."""
    line = f"memory of {stage}, per {'GPU' if on_gpu else 'CPU process'}: {amount(total, DIGITS)}"
    if on is None:
        return line
    have = on.device.memory
    return line + (f" of {have} GiB" if total < have * GIB else f", more than {on.name.upper()}'s {have} GiB: {remedy}")


def stage_seconds(params: Params, costs: list[TurnCost], pass_time: PassTime) -> dict[str, float]:
    """Seconds of the network passes of each stage, with a device like the measured one for each process of `train`."""
    images, guidance = evaluated_images(params), passes_per_prediction(params)
    teacher_images = params.teacher.steps * params.teacher.batch_size if params.teacher.source == "train" else 0
    pairs = params.pairs.count * passes_of(params.pairs.solver, params.pairs.steps)
    forward = sum(cost.images * forward_passes(cost.passes) for cost in costs)
    backward = sum(cost.images * backward_passes(cost.passes) for cost in costs)
    if params.train.gradient_checkpointing:  # the backward pass computes each activation again
        forward += backward
    train = forward * pass_time.forward + backward * pass_time.backward
    return {
        "teacher": teacher_images * (pass_time.forward + pass_time.backward),
        "baseline": images * sum(baseline_passes(params)) * guidance * pass_time.forward,
        "pairs": pairs * guidance * pass_time.forward,
        "train": train / params.train.processes,
        "evaluate": images * params.method.steps * pass_time.forward,
    }


def time_lines(
    seconds: Mapping[str, float], runs: set[str], params: Params, each: PassTime, on: Target | None = None
) -> list[str]:
    """Lines with the time of the stages that run, their cost in device hours, and the work that is not counted."""
    todo = {name: s for name, s in seconds.items() if name in runs and s > 0}
    count, start = params.train.processes, STARTUP * len(runs)
    total, cost = sum(todo.values()) + start, sum(todo.values()) + start + (count - 1) * todo.get("train", 0)
    parts = {name: f"{name} {duration(s)}" for name, s in todo.items()}
    if count > 1 and "train" in parts:
        parts["train"] += f" with {count} processes" + (", each as fast as this machine" if on is None else "")
    least = "at least " if each.is_bound else ""
    device = on.name if on is not None else _device_type(params)
    forward, backward = duration(each.forward), duration(each.backward)
    lines = [
        f"time: {least}{duration(total)}; cost: {least}{rounded(cost / 3600)} {device.upper()} hours",
        "  " + ", ".join([*parts.values(), f"start of {len(runs)} stage{'s' * (len(runs) > 1)} {duration(start)}"]),
        f"  per image {forward} forward, {backward} backward: {each.source}",
        f"  not counted: {', '.join([NOT_TIMED, *_speed_keys(params, device)])}",
    ]
    if device == "cpu" and total > LONGEST_ON_CPU:
        return [f"time: too long for this CPU; --dry-run --on {EXAMPLE} estimates it for GPUs", lines[2]]
    return lines


def _speed_keys(params: Params, device: str) -> list[str]:
    """The keys in use that change the speed of a stage, but not that of the timed pass."""
    own = {f"{name}.threads": getattr(params, name).threads for name in ("teacher", "train")}
    keys = [key for key, threads in own.items() if device == "cpu" and threads not in (0, params.runtime.threads)]
    return keys if params.train.compile == "none" else [*keys, "train.compile"]


def _device_type(params: Params) -> str:
    return choose_device(params.runtime.device, fallback=True).type
