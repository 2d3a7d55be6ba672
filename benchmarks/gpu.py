"""`python -m benchmarks.gpu`: a block of DMD2 on this machine's GPU, in ten minutes, for networks of three sizes.

It measures: whether random numbers are those of the CPU; how fast memory is copied; the host's own time, and the places
where it waits; milliseconds of a block by kind of work, with a wait for the device after each; blocks in other settings
(TF32, bf16, compiled, with CUDA graphs), run in turns with the plain one; and images per second of the generator.

records/gpu.json is written after each part, so that an interrupted run keeps what it has measured. A part that fails is
recorded with its error, and the next one follows. With --device cpu it measures the CPU, for tests.
"""

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks.block import Size, new_block
from benchmarks.cases import CASES, new_case
from benchmarks.passes import Passes
from benchmarks.turns import host_milliseconds
from benchmarks.workers import ROOT, Worker, in_turns
from dmd.distillation import trainer
from dmd.samplers.few_step import one_step
from dmd.storage.files import write_text
from dmd.training.philox import random_words
from dmd.training.random_source import RandomSource

SIZES = {
    "fashion_mnist": Size(28, (16, 32, 64), 512),
    "cifar10": Size(32, (128, 256, 256, 256), 128, image_channels=3, layers=2),
    "imagenet64": Size(64, (192, 384, 576, 768), 32, image_channels=3, layers=3),
}
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "tf32": {"tf32": True},
    "bf16": {"precision": "bf16"},
    "bf16, channels last": {"precision": "bf16", "channels_last": True},
    "compiled": {"compile": "default"},
    "bf16, compiled": {"precision": "bf16", "compile": "default"},
    "bf16, CUDA graphs": {"precision": "bf16", "compile": "reduce-overhead"},
}
BATCHES = (1, 16, 128, 1024)  # images at once by the generator
NOISE = 2048, (3, 32, 32)  # samples and shape of the noise that is timed
COPIED = 2**26  # floats
T = 1000  # noise levels


def main() -> None:
    """Measure part by part until the time is over."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--repeats", type=int, default=7, help="blocks of each kind; medians are reported")
    parser.add_argument("--minutes", type=float, default=9.0, help="no part starts later than this")
    parser.add_argument("--out", type=Path, default=Path("records/gpu.json"))
    args = parser.parse_args()
    end = time.monotonic() + 60 * args.minutes
    result: dict[str, Any] = {"device": describe(args.device), "torch": torch.__version__}
    for name, part in parts(args.device, args.sizes, args.repeats):
        start = time.monotonic()
        result[name] = attempt(part) if start < end else "not measured: no time left"
        print(f"{name}: {json.dumps(result[name])} ({time.monotonic() - start:.0f} s)", flush=True)
        write_text(args.out, json.dumps(result, indent=2) + "\n")


def attempt(part: Callable[[], Any]) -> Any:
    """The result of a part, or its error in one line, so that one failure does not end the other measurements."""
    try:
        return part()
    except Exception as e:
        return f"failed: {type(e).__name__}: {' '.join(str(e).split())[:300]}"


def parts(device: str, sizes: list[str], repeats: int) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Name and measurement of each part, the most important first."""
    yield "random numbers", partial(compare_numbers, device)
    yield "copies", partial(measure_copies, device)
    for case in CASES:
        yield f"host, {case}", partial(measure_host, case, device, repeats)
    for name in sizes:
        yield f"passes, {name}", partial(measure_passes, SIZES[name], device, repeats)
        yield f"settings, {name}", partial(compare_settings, SIZES[name], device, repeats)
        yield f"images per second, {name}", partial(measure_generation, SIZES[name], device, repeats)


def describe(device: str) -> str:
    """The name of the GPU, or "cpu"."""
    return torch.cuda.get_device_name() if device == "cuda" else "cpu"


def finish(device: str) -> None:
    """Wait until the device has done its work."""
    if device == "cuda":
        torch.cuda.synchronize()


def seconds(work: Callable[[], object], device: str) -> float:
    """Seconds of a call, until the device has done its work."""
    finish(device)
    start = time.perf_counter()
    work()
    finish(device)
    return time.perf_counter() - start


def compare_numbers(device: str) -> dict[str, Any]:
    """Random numbers of the device against those of the CPU, and their time."""
    n, shape = NOISE
    there, here = (RandomSource(0, 1, "critic", range(n), d) for d in (device, "cpu"))
    x, y = there.noise(*shape).cpu(), here.noise(*shape)
    make = partial(RandomSource(0, 2, "critic", range(n), device).noise, *shape)
    make()
    return {
        "integers are equal": torch.equal(random_words(7, 3, 4096, device).cpu(), random_words(7, 3, 4096, "cpu")),
        "largest difference of noise": (x - y).abs().max().item(),
        "ms of noise [2048, 3, 32, 32]": 1000 * statistics.median(seconds(make, device) for _ in range(9)),
    }


def measure_copies(device: str) -> dict[str, float]:
    """GB per second from pageable and from pinned memory, and ms until the call of a pinned copy returns."""
    x = torch.empty(COPIED)
    sources = {"pageable": x, "pinned": x.pin_memory() if device == "cuda" else x}
    result = {}
    for name, source in sources.items():
        copy = partial(source.to, device, non_blocking=True, copy=True)
        copy()
        result[f"GB/s, {name}"] = x.nbytes / statistics.median(seconds(copy, device) for _ in range(5)) / 1e9
    finish(device)
    start = time.perf_counter()
    sources["pinned"].to(device, non_blocking=True, copy=True)
    return result | {"ms until a pinned copy returns": 1000 * (time.perf_counter() - start)}


def measure_host(case: str, device: str, repeats: int) -> dict[str, Any]:
    """CPU milliseconds of a turn on networks that cost nothing, and how often a block waits for the device."""
    result: dict[str, Any] = {
        f"ms per turn, batch {n}": host_milliseconds(Size(8, (1,), n), case, repeats, device) for n in (16, 256)
    }
    _, blocks = new_case(case, Size(8, (8, 8), 16), 4, device=device)
    next(blocks)
    with watched_turns() as found:
        next(blocks)
    return result | {"waits in the turns of a block": len(found), "their places": sorted(set(found))}


@contextmanager
def watched_turns() -> Iterator[list[str]]:
    """Collect the places, FILE:LINE, at which a turn made the host wait, by torch's warnings; none without CUDA."""
    found: list[str] = []
    take_turn = trainer.take_turn

    def watched(*args: Any) -> None:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            if torch.cuda.is_available():
                torch.cuda.set_sync_debug_mode("warn")
            try:
                take_turn(*args)
            finally:
                if torch.cuda.is_available():
                    torch.cuda.set_sync_debug_mode("default")
        found.extend(f"{Path(w.filename).name}:{w.lineno}" for w in caught if "synchronizing" in str(w.message))

    with patch.object(trainer, "take_turn", watched):
        yield found


def measure_passes(size: Size, device: str, repeats: int) -> dict[str, Any]:
    """Median milliseconds of a block of DMD2 by kind of work, and GiB of memory at its peak."""

    def clock() -> float:
        finish(device)
        return time.perf_counter()

    state, blocks = new_block(size, "dmd2", repeats + 2, device=device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()  # an earlier part may have had more
    next(blocks)
    with Passes(state.nets, clock) as passes:
        rows = [passes.measure(partial(next, blocks)) for _ in range(repeats)]
    peak = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else 0.0
    milliseconds = {kind: round(1000 * statistics.median(row[kind] for row in rows), 3) for kind in rows[0]}
    return {"ms": milliseconds, "ms in all": round(sum(milliseconds.values()), 3), "peak GiB": round(peak, 3)}


def compare_settings(size: Size, device: str, repeats: int) -> dict[str, Any]:
    """Seconds of a block in each setting, its ratio to the plain one, and those of its first block (compilation)."""
    workers = {name: Worker(ROOT, size, device=device, **order) for name, order in SETTINGS.items()}
    blocks = in_turns(workers, repeats)
    if "plain" not in blocks:
        raise RuntimeError("the plain setting failed; its error is on standard error")
    medians = {name: statistics.median(block.clock for block in rows[1:]) for name, rows in blocks.items()}
    return {
        name: {
            "seconds": round(medians[name], 5),
            "ratio to plain": round(medians[name] / medians["plain"], 3),
            "seconds of the first": round(blocks[name][0].clock, 2),
        }
        if name in medians
        else "failed; the error is on standard error"
        for name in SETTINGS
    }


@torch.inference_mode()
def measure_generation(size: Size, device: str, repeats: int) -> dict[str, dict[str, float]]:
    """Images per second of the generator by batch size, in float32 and in bf16."""
    state, _ = new_block(size, "dmd2", 1, device=device)
    generator = state.nets.generator.eval()
    result: dict[str, dict[str, float]] = {"float32": {}, "bf16": {}}
    for n in BATCHES:
        z = torch.randn(n, size.image_channels, size.side, size.side, device=device)
        labels: Tensor = torch.zeros(n, dtype=torch.long, device=device)
        for kind in result:
            with torch.autocast(device, torch.bfloat16, enabled=kind == "bf16"):
                sample = partial(one_step, generator, z, T - 1, labels)
                sample()
                median = statistics.median(seconds(sample, device) for _ in range(repeats))
            result[kind][str(n)] = round(n / median, 1)
    return result


if __name__ == "__main__":
    main()
