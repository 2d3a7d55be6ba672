"""Seconds per image, measured in turn in one process so that a busy machine is unfair to nobody."""

import platform
import resource
import statistics
import sys
import time

import torch
from torch import Tensor

from dmd.sampling import Sampler
from evaluation.schema import Host, Latency, Timing


def time_samplers(student: Sampler, teachers: list[Sampler], labels: Tensor, repeats: int) -> Timing:
    """One call makes an image per label, from noise to bytes. The median over `repeats` counts."""
    seconds: dict[str, list[float]] = {s.name: [] for s in (student, *teachers)}
    for sampler in (student, *teachers):
        _seconds(sampler, labels)  # allocations are made and kernels chosen at the first call
    for _ in range(repeats):
        for sampler in (student, *teachers):
            seconds[sampler.name].append(_seconds(sampler, labels))
    per_image = {name: statistics.median(v) / len(labels) for name, v in seconds.items()}
    rows = {s.name: Latency(nfe=s.nfe, seconds_per_image=per_image[s.name]) for s in (student, *teachers)}
    return Timing(
        student=rows.pop(student.name),
        teachers=rows,
        speedup={name: per_image[name] / per_image[student.name] for name in rows},
        batch_size=len(labels),
        repeats=repeats,
        peak_memory_mib=_peak_memory_mib(),
        host=_host(student.device),
    )


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
