"""`python -m benchmarks.turns`: a block of training (critic turns and a generator turn) by its passes.

It writes records/turns.json: for each size and kind of training the seconds and bytes of each kind of work in a block,
measured in turns; the host's own time, on networks that cost nothing; and blocks of DMD2 beside those of commit
ca1a315, in interleaved runs of one thread: their ratio, and their losses with the same random numbers. Times are those
of the CPU, so other programs disturb them less.

    python -m benchmarks.turns --sizes digits --repeats 7 --out records/turns.json
"""

import argparse
import json
import statistics
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from benchmarks.block import SIZES, Size
from benchmarks.cases import CASES, FROZEN, new_case
from benchmarks.interleaved import time_in_turns
from benchmarks.passes import Passes
from benchmarks.without_data import without_data
from benchmarks.workers import ROOT, Seconds, Worker, in_turns
from dmd.distillation.turn_log import TurnLog
from dmd.storage.files import write_text

EARLIER = "ca1a315"  # the commit that speed is compared with
META_BATCHES = (16, 256)
PASSES = ("generator", "teacher", "critic", "discriminator", "backward")
LOSSES = ("critic_total", "critic_denoising", "critic_gan", "generator_total", "generator_dm", "generator_gan")


def main() -> None:
    """Measure and write the file, part by part."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.turns", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--repeats", type=int, default=7, help="blocks of each kind; medians are reported")
    parser.add_argument("--out", type=Path, default=Path("records/turns.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    sizes = {name: SIZES[name] for name in args.sizes}
    result: dict[str, Any] = {"against": {"commit": EARLIER, "sizes": compare(sizes, args.repeats)}}
    result["host_ms_per_turn"] = {case: measure_host(case, args.repeats) for case in CASES}
    result["passes"] = {name: measure_passes(size, args.repeats) for name, size in sizes.items()}
    write_text(args.out, json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


def measure_passes(size: Size, repeats: int) -> dict[str, Any]:
    """For each case, median CPU milliseconds of a block by kind of work and megabytes of the tensors that each makes.

    The blocks of all cases run in turns. `passes_over_dmd2` is the ratio of passes alone.
    """
    cases = {name: new_case(name, size, repeats + 3) for name in CASES}
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in cases}
    for _ in range(repeats + 1):
        for name, (state, blocks) in cases.items():
            with Passes(state.nets) as passes:
                rows[name].append(passes.measure(partial(next, blocks)))
    result: dict[str, Any] = {}
    for name, (state, blocks) in cases.items():
        measured = rows[name][1:]  # the first one warms up
        kinds = dict.fromkeys(kind for row in measured for kind in row)
        ms = {kind: 1000 * statistics.median(row.get(kind, 0.0) for row in measured) for kind in kinds}
        with Passes(state.nets) as passes:
            made = passes.measure_bytes(partial(next, blocks))
        result[name] = {
            "ms": {kind: round(value, 3) for kind, value in ms.items()},
            "ms_in_all": round(sum(ms.values()), 3),
            "megabytes_made": {kind: round(value / 1e6, 3) for kind, value in made.items()},
        }
    for name in result:
        pairs = zip(rows[name][1:], rows["dmd2"][1:], strict=True)
        result[name]["passes_over_dmd2"] = round(statistics.median(_passes(a) / _passes(b) for a, b in pairs), 3)
    return result


def _passes(row: dict[str, float]) -> float:
    return sum(row.get(kind, 0.0) for kind in PASSES)


class Free(nn.Module):
    """A network that costs nothing: it multiplies its input by its one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.mid_block = nn.Identity()  # the discriminator reads its output

    def forward(self, x: Tensor, time: Tensor, class_labels: Tensor | None = None) -> SimpleNamespace:
        return SimpleNamespace(sample=self.mid_block(self.weight * x))


def measure_host(case: str, repeats: int) -> dict[str, float]:
    """Median CPU milliseconds of one turn on networks that cost nothing.

    "meta, N": N images without data, so without arithmetic; torch then infers shapes in Python, which takes the host
    several times as long as a GPU's operations do. "cpu, 2": two images of 8x8 pixels, with little arithmetic.
    """
    result = {}
    for batch_size in META_BATCHES:
        nothing = {"read": lambda log: log.clear() or {}, "check": lambda log: log.clear()}
        with without_data(), patch.multiple(TurnLog, **nothing):
            result[f"meta, {batch_size}"] = host_milliseconds(Size(8, (1,), batch_size), case, repeats)
    return result | {"cpu, 2": host_milliseconds(Size(8, (1,), 2), case, repeats)}


def host_milliseconds(size: Size, case: str, repeats: int, device: str = "cpu") -> float:
    """Median CPU milliseconds per turn."""
    _, blocks = new_case(case, size, repeats + 2, Free(), device)
    seconds = time_in_turns({case: partial(next, blocks)}, repeats)[case]
    turns = CASES[case].count_turns(size)
    return round(1000 * statistics.median(seconds) / turns, 3)


def compare(sizes: dict[str, Size], repeats: int) -> dict[str, Any]:
    """For each size, the CPU seconds of a DMD2 block here and at the earlier commit, run in turns, and their ratio.

    `frozen_over_earlier` is the ratio of a block here whose discriminator reads the frozen teacher.
    """
    result, frozen = {}, CASES[FROZEN]
    with worktree(ROOT, EARLIER) as earlier:
        for name, size in sizes.items():
            workers = {
                "here": Worker(ROOT, size),
                "earlier": Worker(earlier, size),
                "frozen": Worker(ROOT, size, frozen.method, trunk=frozen.trunk),
            }
            cpu = {key: [block.cpu for block in blocks[1:]] for key, blocks in _run(name, workers, repeats).items()}
            ratios = [old / new for old, new in zip(cpu["earlier"], cpu["here"], strict=True)]
            less = [new / old for new, old in zip(cpu["frozen"], cpu["earlier"], strict=True)]
            result[name] = {
                "cpu_seconds": {key: round(statistics.median(values), 4) for key, values in cpu.items()},
                "ratio": round(statistics.median(ratios), 3),
                "ratios": [round(ratio, 3) for ratio in ratios],
                "frozen_over_earlier": round(statistics.median(less), 3),
                "largest_difference_of_losses": compare_losses(name, size, earlier),
            }
    return result


def compare_losses(name: str, size: Size, earlier: Path) -> dict[str, float]:
    """For each loss of the first block, the relative difference between both trees with the same random numbers."""
    workers = {"here": Worker(ROOT, size, numbers="earlier"), "earlier": Worker(earlier, size)}
    rows = {key: blocks[0].numbers for key, blocks in _run(name, workers, 0).items()}
    here, before = rows["here"], rows["earlier"]
    return {loss: abs(here[loss] - before[loss]) / abs(before[loss]) for loss in LOSSES}


def _run(name: str, workers: dict[str, Worker], repeats: int) -> dict[str, list[Seconds]]:
    """Run the blocks of all workers in turns. Raises RuntimeError if one fails."""
    seconds = in_turns(workers, repeats)
    if failed := [key for key in workers if key not in seconds]:
        raise RuntimeError(f"size {name}: a block of tree {failed[0]!r} failed; its error is above")
    return seconds


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
