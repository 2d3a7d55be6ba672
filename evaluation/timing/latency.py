"""Seconds per image, measured in turn in one process so that a busy machine is unfair to nobody."""

import platform
import resource
import statistics
import sys
import time

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from dmd.samplers.sampler import Sampler
from evaluation.metrics.schema import Host, Latency, Timing

BATCHES = (1, 16, 64, 256, 512)  # sizes among which the best is looked for


def time_samplers(
    student: Sampler, teachers: list[Sampler], labels: Tensor, repeats: int, parameters: int = 0
) -> Timing:
    """One call makes an image per label, from noise to bytes. The median over `repeats` counts."""
    samplers = (student, *teachers)
    seconds: dict[str, list[float]] = {s.name: [] for s in samplers}
    alone: dict[str, list[float]] = {s.name: [] for s in samplers}
    flops = {s.name: _gflops(s, labels[:1]) for s in samplers}
    for sampler in samplers:
        _seconds(sampler, labels)  # allocations are made and kernels chosen at the first call
    for _ in range(repeats):
        for sampler in samplers:
            seconds[sampler.name].append(_seconds(sampler, labels) / len(labels))
            alone[sampler.name].append(_seconds(sampler, labels[:1]))
    per_image = {name: statistics.median(v) for name, v in seconds.items()}
    rows = {
        s.name: Latency(
            nfe=s.nfe,
            seconds_per_image=per_image[s.name],
            seconds_alone=statistics.median(alone[s.name]),
            gflops_per_image=flops[s.name],
        )
        for s in samplers
    }
    best_batch, rate = _best_batch(student, labels, repeats)
    return Timing(
        student=rows.pop(student.name),
        teachers=rows,
        speedup={name: per_image[name] / per_image[student.name] for name in rows},
        images_per_second=rate,
        best_batch=best_batch,
        parameters=parameters,
        batch_size=len(labels),
        repeats=repeats,
        peak_memory_mib=_peak_memory_mib(),
        host=_host(student.device),
    )


def _gflops(sampler: Sampler, label: Tensor) -> float:
    """Floating point operations of one image, counted and not estimated, / 1e9."""
    with FlopCounterMode(display=False) as counter:
        sampler.images(label, torch.Generator().manual_seed(0))
    return counter.get_total_flops() / 1e9


def _best_batch(sampler: Sampler, labels: Tensor, repeats: int) -> tuple[int, float]:
    """The batch size that makes most images in a second, and how many."""
    rates = {}
    for size in BATCHES:
        batch = labels[torch.arange(size) % len(labels)]
        rates[size] = size / statistics.median(_seconds(sampler, batch) for _ in range(repeats))
    best = max(rates, key=lambda size: rates[size])
    return best, rates[best]


def _seconds(sampler: Sampler, labels: Tensor) -> float:
    rng = torch.Generator().manual_seed(0)
    start = time.perf_counter()
    sampler.images(labels, rng)  # ends with a copy to the CPU, which waits for the device
    return time.perf_counter() - start


def _peak_memory_mib() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)  # bytes there, KiB elsewhere


def _host(device: torch.device) -> Host:
    return Host(
        machine=platform.machine(),
        processor=torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else torch.backends.cpu.get_cpu_capability(),
        device=device.type,
        threads=torch.get_num_threads(),
        python=platform.python_version(),
        torch=torch.__version__,
    )
