"""How fast this machine passes images through a teacher's network: measured in seconds, on weights of no meaning."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from dmd.config import RuntimeConfig
from dmd.device import choose_device
from dmd.diffusion.denoiser import Denoiser
from dmd.teachers.teacher import Teacher

SECONDS = 2.0  # about what a measurement takes, but for a network whose single pass takes longer
LARGE = 40e9  # operations of a pass above which the network is not run here, but counted
TYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Rate:
    """Seconds per image and pass, on one device."""

    forward: float
    both: float  # forward and backward
    how: str

    @property
    def backward(self) -> float:
        return self.both - self.forward


def measure(blank: Callable[[torch.device], Teacher], batch: int, precision: str, cfg: RuntimeConfig) -> Rate:
    """The rate of the network that `blank` makes on a device, at no more than `batch` images at once.

    A network that would take long is not run: its operations are counted, and convolutions alone are timed.
    """
    device, operations = choose_device(cfg.device, fallback=True), count_operations(blank(torch.device("meta")))
    with _threads(cfg.threads):
        where = f"{cfg.threads} CPU thread{'s' * (cfg.threads > 1)}" if device.type == "cpu" else "one GPU"
        if operations > LARGE:
            rate = convolution_rate(device, precision)
            how = f"{operations / 1e9:,.0f} GFLOP at the {rate / 1e9:,.0f} GFLOP/s of convolutions on {where} here"
            return Rate(operations / rate, 3 * operations / rate, how)  # backward is twice the operations
        return _measured(blank(device), batch, precision, where)


def _measured(teacher: Teacher, batch: int, precision: str, where: str) -> Rate:
    net, size = teacher.denoiser.requires_grad_(True), 1
    _seconds(net, teacher, size, precision, backward=True)  # kernels are chosen at the first call
    while size < batch and _seconds(net, teacher, size, precision, backward=True) < SECONDS / 16:
        size = min(batch, 4 * size)
    forward, both = (min(_seconds(net, teacher, size, precision, b) for _ in range(2)) / size for b in (False, True))
    return Rate(forward, max(both, forward), f"measured on {where} here, {size} image{'s' * (size > 1)} at once")


def count_operations(teacher: Teacher) -> int:
    """Floating point operations of one image's pass; teacher is on the meta device."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        teacher.denoiser.predict(*_inputs(teacher.denoiser, teacher, 1))
    return counter.get_total_flops()


def convolution_rate(device: torch.device, precision: str) -> float:
    """Operations per second of the 3x3 convolutions that a large UNet mostly consists of."""
    layer = torch.nn.Conv2d(320, 320, 3, padding=1, device=device)
    x = torch.randn(1, 320, 64, 64, device=device)
    with torch.no_grad(), _autocast(device, precision):
        seconds = min(_timed(lambda: layer(x), device) for _ in range(5))
    return 2 * 320 * 320 * 9 * 64 * 64 / seconds


def _seconds(net: Denoiser, teacher: Teacher, batch: int, precision: str, backward: bool) -> float:
    inputs = _inputs(net, teacher, batch)
    device = inputs[0].device

    def one_pass() -> None:
        with torch.set_grad_enabled(backward), _autocast(device, precision):
            out = net.predict(*inputs)
        if backward:
            out.float().square().mean().backward()

    seconds = _timed(one_pass, device)
    net.zero_grad(set_to_none=True)
    return seconds


def _inputs(net: Denoiser, teacher: Teacher, batch: int) -> tuple[Tensor, Tensor, Tensor | None]:
    device = next(net.parameters()).device
    x = torch.randn(batch, *teacher.shape, device=device)
    index = torch.zeros(batch, dtype=torch.long, device=device)
    return x, index, index if teacher.classes else None


def _timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds. On the CPU those that the process had it, so that other work on the machine does not count."""
    if device.type == "cpu":
        start = time.process_time()
        work()
        return (time.process_time() - start) / torch.get_num_threads()
    torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def _autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[object]:
    dtype = TYPES[precision]
    return contextlib.nullcontext() if dtype is None else torch.autocast(device.type, dtype)


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    """As many as a stage would use, whatever this process has."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
