"""Seconds that this machine takes to pass an image through a teacher's network, measured with untrained weights."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from dmd.config import RuntimeConfig
from dmd.device import choose_device
from dmd.teachers.teacher import Teacher
from flows.plan.units import rounded

LARGE = 40e9  # operations per pass; above this the network is not run, and its operations are counted instead
AT_ONCE = 4e9  # approximate number of operations in a timed batch
AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class PassTime:
    """Seconds per image of a forward and of a backward pass on one device."""

    forward: float
    backward: float
    source: str  # how the numbers were obtained, in words
    is_bound: bool = False  # whether the seconds are only known to be at least these


def measure_pass_time(
    blank: Callable[[torch.device], Teacher], batch: int, precision: str, cfg: RuntimeConfig
) -> PassTime:
    """Measure the network of the teacher that `blank` builds on a device, with at most `batch` images at once.

    A large network is not run: its operations, twice as many in a backward pass, are divided by the speed of a
    convolution.
    """
    device, operations = choose_device(cfg.device, fallback=True), count_operations(blank(torch.device("meta")))
    place = f"{cfg.threads} CPU thread{'s' * (cfg.threads > 1)}" if device.type == "cpu" else "one GPU"
    if operations > LARGE:
        speed = convolution_speed(device, precision, cfg.threads)
        of_each = f"{rounded(operations / 1e9)} GFLOP at {rounded(speed / 1e9)} GFLOP/s"
        source = f"{of_each}, the speed of a convolution on {place} of this machine"
        return PassTime(operations / speed, 2 * operations / speed, source)
    size = max(1, min(batch, int(AT_ONCE // operations)))
    teacher = blank(device)
    passes = (partial(_run_pass, teacher, size, precision, backward) for backward in (False, True))
    forward, both = (_seconds(run, device, cfg.threads) / size for run in passes)
    source = f"measured on {place} of this machine, {size} image{'s' * (size > 1)} at once"
    return PassTime(forward, max(both - forward, 0.0), source)


def count_operations(teacher: Teacher) -> int:
    """Floating point operations of one image's forward pass; the teacher is on the meta device."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        _predict(teacher, 1)
    return counter.get_total_flops()


def convolution_speed(device: torch.device, precision: str, threads: int) -> float:
    """Operations per second of a 3x3 convolution of 320 channels, the main operation of a large UNet."""
    layer = torch.nn.Conv2d(320, 320, 3, padding=1, device=device).requires_grad_(False)
    x = torch.randn(1, 320, 64, 64, device=device)

    def run() -> None:
        with _autocast(device, precision):
            layer(x)

    return 2 * 320 * 320 * 9 * 64 * 64 / _seconds(run, device, threads)


def _run_pass(teacher: Teacher, batch: int, precision: str, backward: bool) -> None:
    """Run a forward pass of a batch and, if `backward`, a backward pass."""
    denoiser = teacher.denoiser.requires_grad_(backward)
    with _autocast(next(denoiser.parameters()).device, precision):
        out = _predict(teacher, batch)
    if backward:
        out.float().square().mean().backward()
        denoiser.zero_grad(set_to_none=True)


def _predict(teacher: Teacher, batch: int) -> Tensor:
    """Predict x0 [batch, C, H, W] from noise."""
    device = next(teacher.denoiser.parameters()).device
    index = torch.zeros(batch, dtype=torch.long, device=device)
    return teacher.denoiser.predict(
        torch.randn(batch, *teacher.shape, device=device), index, index if teacher.conditions else None
    )


def _seconds(run: Callable[[], object], device: torch.device, threads: int) -> float:
    """Return the seconds of the fastest of three calls, on `threads` CPU threads or on the GPU.

    On the CPU this is the process time divided by `threads`, so that other load on the machine does not count.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        _, *seconds = [_time(run, device) for _ in range(4)]  # the first call selects kernels
    finally:
        torch.set_num_threads(before)
    return min(seconds) / (threads if device.type == "cpu" else 1)


def _time(run: Callable[[], object], device: torch.device) -> float:
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    start = clock()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def _autocast(device: torch.device, precision: str) -> torch.autocast:
    return torch.autocast(device.type, AUTOCAST[precision], enabled=AUTOCAST[precision] is not None)
