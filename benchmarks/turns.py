"""`python -m benchmarks.turns`: a block of training (critic turns and a generator turn) by its passes.

It writes records/turns.json: for each size and method the seconds and bytes of each kind of work in a block; the host's
own time, on networks that cost nothing; and the ratio of a block of DMD2 at commit ca1a315 to one of this tree, from
interleaved runs of one thread. Times are those of the CPU, so other programs disturb them less.

    python -m benchmarks.turns --sizes digits --repeats 7 --out records/turns.json
"""

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from benchmarks.block import SIZES, Size, new_block
from benchmarks.passes import Passes
from benchmarks.without_data import without_data
from benchmarks.workers import ROOT, Worker, in_turns
from dmd.distillation.turn_log import TurnLog
from dmd.storage.files import write_text

MEASURED = ("dmd", "dmd2", "f_distill", "gdd")  # methods
EARLIER = "ca1a315"  # the commit that speed is compared with
META_BATCHES = (16, 256)

Block = tuple[Any, Iterator[dict[str, Any]]]  # the state of a training, and its blocks


def main() -> None:
    """Measure and write the file."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.turns", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--repeats", type=int, default=7, help="blocks of each kind; medians are reported")
    parser.add_argument("--out", type=Path, default=Path("records/turns.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    sizes = {name: SIZES[name] for name in args.sizes}
    result = {
        "passes": {n: {m: measure_passes(size, m, args.repeats) for m in MEASURED} for n, size in sizes.items()},
        "host_ms_per_turn": {method: measure_host(method, args.repeats) for method in MEASURED},
        "against": {"commit": EARLIER, "sizes": compare(sizes, args.repeats)},
    }
    write_text(args.out, json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


def measure_passes(size: Size, method: str, repeats: int) -> dict[str, Any]:
    """Median CPU milliseconds of a block by kind of work, and the megabytes of the tensors that each kind makes."""
    state, blocks = new_block_of(method, size, repeats + 3)
    next(blocks)
    with Passes(state.nets) as passes:
        rows = [passes.measure(partial(next, blocks)) for _ in range(repeats)]
        made = passes.measure_bytes(partial(next, blocks))
    milliseconds = {kind: 1000 * statistics.median(row[kind] for row in rows) for kind in rows[0]}
    return {
        "ms": {kind: round(value, 3) for kind, value in milliseconds.items()},
        "ms_in_all": round(sum(milliseconds.values()), 3),
        "megabytes_made": {kind: round(value / 1e6, 3) for kind, value in made.items()},
    }


class Free(nn.Module):
    """A network that costs nothing: it multiplies its input by its one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.mid_block = nn.Identity()  # the discriminator reads its output

    def forward(self, x: Tensor, time: Tensor, class_labels: Tensor | None = None) -> SimpleNamespace:
        return SimpleNamespace(sample=self.mid_block(self.weight * x))


def new_block_of(method: str, size: Size, blocks: int, net: nn.Module | None = None, device: str = "cpu") -> Block:
    """A block of any method; the discriminator reads the critic or, where there is none, the teacher."""
    return new_block(size, method, blocks, net, "teacher" if method == "gdd" else "critic", device)


def measure_host(method: str, repeats: int) -> dict[str, float]:
    """Median CPU milliseconds of one turn on networks that cost nothing.

    "meta, N": N images without data, so without arithmetic; torch then infers shapes in Python, which takes the host
    several times as long as a GPU's operations do. "cpu, 2": two images of 4x4 pixels, with little arithmetic.
    """
    result = {}
    for batch_size in META_BATCHES:
        with without_data(), patch.object(TurnLog, "read", lambda log: log.clear() or {}):
            result[f"meta, {batch_size}"] = host_milliseconds(Size(8, (1,), batch_size), method, repeats)
    return result | {"cpu, 2": host_milliseconds(Size(4, (1,), 2), method, repeats)}


def host_milliseconds(size: Size, method: str, repeats: int, device: str = "cpu") -> float:
    """Median CPU milliseconds per turn."""
    _, blocks = new_block_of(method, size, repeats + 2, Free(), device)
    next(blocks)
    seconds = statistics.median(timed(partial(next, blocks)) for _ in range(repeats))
    turns = 2 if method == "gdd" else size.critic_turns + 1
    return round(1000 * seconds / turns, 3)


def timed(work: Callable[[], object]) -> float:
    """CPU seconds of a call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def compare(sizes: dict[str, Size], repeats: int) -> dict[str, Any]:
    """For each size, the CPU seconds of a DMD2 block here and at the earlier commit, run in turns, and their ratio."""
    result = {}
    with worktree(ROOT, EARLIER) as earlier:
        for name, size in sizes.items():
            seconds = in_turns({"here": Worker(ROOT, size), "earlier": Worker(earlier, size)}, repeats)
            if failed := [key for key in ("here", "earlier") if key not in seconds]:
                raise RuntimeError(f"size {name}: a block of tree {failed[0]!r} failed; its error is above")
            cpu = {key: [block.cpu for block in blocks[1:]] for key, blocks in seconds.items()}
            medians = {key: statistics.median(values) for key, values in cpu.items()}
            ratios = [old / new for old, new in zip(cpu["earlier"], cpu["here"], strict=True)]
            result[name] = {
                "cpu_seconds": {key: round(value, 4) for key, value in medians.items()},
                "ratio": round(medians["earlier"] / medians["here"], 3),
                "ratios": [round(ratio, 3) for ratio in ratios],
            }
    return result


@contextmanager
def worktree(root: Path, commit: str) -> Iterator[Path]:
    """A checkout of an earlier commit in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / commit
        subprocess.run(["git", "worktree", "add", "--quiet", "--detach", str(path), commit], cwd=root, check=True)
        try:
            yield path
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(path)], cwd=root, check=True)


if __name__ == "__main__":
    main()
