"""Measure seconds per image of several samplers in turn in one process, so that other load affects all alike."""

import platform
import resource
import statistics
import sys
import time

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from dmd.config import EvaluateConfig
from dmd.samplers.sampler import Sampler
from evaluation.timing.schema import Host, Latency, Timing

BATCH_SIZES = (1, 16, 64, 256, 512)  # candidates for the student's best batch size, up to the largest that it ran with


def time_samplers(
    student: Sampler, teachers: list[Sampler], labels: Tensor, cfg: EvaluateConfig, parameters: int = 0
) -> Timing:
    """Time calls that generate images of the first cfg.timing_batch labels, from noise to bytes.

    Times are medians over cfg.timing_repeats. No batch is larger than cfg.batch_size, which is known to fit into
    memory: it replaces a larger cfg.timing_batch. parameters: number of parameters of the student's network.
    """
    labels, repeats = labels[: min(cfg.timing_batch, cfg.batch_size)], cfg.timing_repeats
    samplers = (student, *teachers)
    seconds: dict[str, list[float]] = {s.name: [] for s in samplers}
    seconds_alone: dict[str, list[float]] = {s.name: [] for s in samplers}
    gflops = {s.name: _count_gflops(s, labels[:1]) for s in samplers}
    for sampler in samplers:
        _time_call(sampler, labels)  # the first call allocates memory and selects kernels
    for _ in range(repeats):
        for sampler in samplers:
            seconds[sampler.name].append(_time_call(sampler, labels) / len(labels))
            seconds_alone[sampler.name].append(_time_call(sampler, labels[:1]))
    per_image = {name: statistics.median(v) for name, v in seconds.items()}
    latencies = {
        s.name: Latency(
            nfe=s.nfe,
            seconds_per_image=per_image[s.name],
            seconds_alone=statistics.median(seconds_alone[s.name]),
            gflops_per_image=gflops[s.name],
        )
        for s in samplers
    }
    best_batch, rate = _find_best_batch(student, labels, repeats, cfg.batch_size)
    return Timing(
        student=latencies.pop(student.name),
        teachers=latencies,
        speedup={name: per_image[name] / per_image[student.name] for name in latencies},
        images_per_second=rate,
        best_batch=best_batch,
        parameters=parameters,
        batch_size=len(labels),
        repeats=repeats,
        peak_memory_mib=_peak_memory_mib(),
        host=_describe_host(student.device),
    )


def _count_gflops(sampler: Sampler, label: Tensor) -> float:
    """Floating-point operations of one image, in units of 1e9."""
    with FlopCounterMode(display=False) as counter:
        sampler.images(label, torch.Generator().manual_seed(0))
    return counter.get_total_flops() / 1e9


def _find_best_batch(sampler: Sampler, labels: Tensor, repeats: int, largest: int) -> tuple[int, float]:
    """Batch size with the most images per second, and that rate."""
    rates = {}
    for size in (size for size in BATCH_SIZES if size <= largest):
        batch = labels[torch.arange(size) % len(labels)]
        rates[size] = size / statistics.median(_time_call(sampler, batch) for _ in range(repeats))
    best = max(rates, key=lambda size: rates[size])
    return best, rates[best]


def _time_call(sampler: Sampler, labels: Tensor) -> float:
    rng = torch.Generator().manual_seed(0)
    start = time.perf_counter()
    sampler.images(labels, rng)  # ends with a copy to the CPU, which waits for the device
    return time.perf_counter() - start


def _peak_memory_mib() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)  # bytes on macOS, KiB elsewhere


def _describe_host(device: torch.device) -> Host:
    on_gpu = device.type == "cuda"
    return Host(
        machine=platform.machine(),
        processor=torch.cuda.get_device_name(device) if on_gpu else torch.backends.cpu.get_cpu_capability(),
        device=device.type,
        threads=torch.get_num_threads(),
        python=platform.python_version(),
        torch=torch.__version__,
    )
