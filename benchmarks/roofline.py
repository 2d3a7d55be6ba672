"""`python -m benchmarks.roofline`: the least time that a block of DMD2 could take here, and the time it takes.

It measures the machine's peak in matrix products and in convolutions and the bandwidth of its memory, and counts the
operations and bytes of a block. No block can be faster than its operations at the higher peak, nor than reading and
writing once what it must: weights, gradients, moments and averages. It writes records/roofline.json.
"""

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.block import SIZES, Size, new_block
from benchmarks.gpu import seconds
from dmd.device import choose_device
from dmd.distillation.state import TrainState
from dmd.storage.files import write_text

MATRIX = {"cpu": 1024, "cuda": 8192}  # side of the matrices of the peak
CONVOLUTIONS = ((64, 28, 64), (320, 64, 8))  # channels, side, images
COPIED = {"cpu": 2**26, "cuda": 2**29}  # floats, more than any cache holds
FLOAT = 4  # bytes


def main() -> None:
    """Measure and write the file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.roofline", description=__doc__)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--repeats", type=int, default=7, help="repetitions of each measurement; the fastest counts")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--out", type=Path, default=Path("records/roofline.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    device = choose_device(args.device)
    machine = measure_machine(device, args.repeats)
    blocks = {name: measure_block(SIZES[name], machine, device, args.repeats) for name in args.sizes}
    result = {"device": device.type, "threads": 1, "machine": machine, "blocks": blocks}
    write_text(args.out, json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


def measure_machine(device: torch.device, repeats: int) -> dict[str, float]:
    """Peaks in GFLOP/s and bandwidth in GB/s, float32, each the best of `repeats`."""
    side = MATRIX[device.type]
    a, b = torch.randn(2, side, side, device=device)
    result = {"matrix product, GFLOP/s": 2 * side**3 / fastest(partial(torch.mm, a, b), device, repeats) / 1e9}
    for channels, pixels, images in CONVOLUTIONS:
        x = torch.randn(images, channels, pixels, pixels, device=device)
        weight = torch.randn(channels, channels, 3, 3, device=device)
        operations = 2 * images * channels**2 * 9 * pixels**2
        took = fastest(partial(F.conv2d, x, weight, padding=1), device, repeats)
        result[f"convolution of {channels} channels, GFLOP/s"] = operations / took / 1e9
    source = torch.ones(COPIED[device.type], device=device)
    target = torch.empty_like(source)
    took = fastest(partial(target.copy_, source), device, repeats)
    result["copy, GB/s read and written"] = 2 * source.nbytes / took / 1e9
    return {name: round(value, 2) for name, value in result.items()}


def measure_block(size: Size, machine: dict[str, float], device: torch.device, repeats: int) -> dict[str, Any]:
    """The operations, bytes, floor and seconds of a block, and the share of the floor in the seconds."""
    state, blocks = new_block(size, "dmd2", repeats + 4, device=device.type)
    next(blocks)
    with FlopCounterMode(display=False) as counter:
        next(blocks)
    with Moved() as moved:
        next(blocks)
    operations, compulsory = counter.get_total_flops(), compulsory_bytes(state, size.critic_turns)
    peak = max(value for name, value in machine.items() if name.endswith("GFLOP/s")) * 1e9
    bandwidth = machine["copy, GB/s read and written"] * 1e9
    floor = max(operations / peak, compulsory / bandwidth)
    took = fastest(partial(next, blocks), device, repeats)
    return {
        "GFLOP": round(operations / 1e9, 3),
        "GB that must move": round(compulsory / 1e9, 4),
        "GB that its operations read and write": round(moved.bytes / 1e9, 3),
        "seconds at least": round(floor, 5),
        "seconds of moving all that at the bandwidth of memory": round(moved.bytes / bandwidth, 5),
        "seconds": round(took, 5),
        "share of the floor": round(floor / took, 3),
    }


def compulsory_bytes(state: TrainState, critic_turns: int) -> int:
    """Fewest bytes that a block reads and writes for weights and moments, if no cache keeps them between turns.

    A critic turn reads the weights of generator and critic, a generator turn also the teacher's. An optimizer step
    reads weights, gradients and two moments and writes all but the gradients; the averages are read and written once.
    """
    nets = state.nets
    sizes = {n: sum(p.numel() for p in getattr(nets, n).parameters()) for n in ("generator", "critic", "teacher")}
    step = 7  # four reads and three writes of an optimizer step
    critic = critic_turns * (sizes["generator"] + (1 + step) * sizes["critic"])
    generator = (1 + step) * sizes["generator"] + sizes["critic"] + sizes["teacher"]
    averages = 2 * len(state.averages) * sizes["generator"]
    return FLOAT * (critic + generator + averages)


class Moved(TorchDispatchMode):
    """Counts the bytes that operations read and write, without views: what moves if no cache helps."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        results = [r for r in (out if isinstance(out, (tuple, list)) else (out,)) if isinstance(r, Tensor)]
        inputs = [a for a in args if isinstance(a, Tensor)]
        storages = {a.untyped_storage()._cdata for a in inputs}
        if any(r.untyped_storage()._cdata not in storages for r in results) or func._schema.is_mutable:
            self.bytes += sum(t.nbytes for t in (*inputs, *results))
        return out


def fastest(work: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Seconds of the fastest of `repeats` calls after a first one."""
    return min([seconds(work, device.type) for _ in range(repeats + 1)][1:])


if __name__ == "__main__":
    main()
