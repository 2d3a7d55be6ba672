"""`python -m benchmarks.linear`: the CPU seconds of a block of DMD2 by its batch and by its operations.

Each grows by a factor of 16; the blocks of all points run in turns, in one process of one thread. `exponent` is the
slope of log seconds over log size from the first point to the last one, 1 for a straight line through zero, and `fixed`
the share of the first point's seconds that does not grow, by a line fitted to all points. It writes
records/linear.json.
"""

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.block import SIZES, Size, new_block
from benchmarks.interleaved import medians, time_in_turns
from dmd.storage.files import write_text

FACTORS = (1, 2, 4, 8, 16)  # of the batch
FIRST_BATCH = {"digits": 64, "fashion_mnist": 16}
WIDTHS = (1, 2, 4)  # of all channels; the operations of a convolution grow with the square


def main() -> None:
    """Measure and write the file."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.linear", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--repeats", type=int, default=7, help="blocks of each point; medians are reported")
    parser.add_argument("--out", type=Path, default=Path("records/linear.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, Any] = {}
    for name in args.sizes:
        size, first = SIZES[name], FIRST_BATCH.get(name, SIZES[name].batch_size)
        batches = {first * factor: replace(size, batch_size=first * factor) for factor in FACTORS}
        widths = [replace(size, channels=tuple(width * c for c in size.channels)) for width in WIDTHS]
        result[name] = {
            "batch": measure(batches, args.repeats),
            "GFLOP": measure({count_gflop(each): each for each in widths}, args.repeats),
        }
        write_text(args.out, json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


def measure(points: dict[Any, Size], repeats: int) -> dict[str, Any]:
    """Median CPU seconds of a block at each point, and how far they are from a straight line."""
    blocks = {str(point): new_block(size, "dmd2", repeats + 1)[1] for point, size in points.items()}
    seconds = medians(time_in_turns({name: partial(next, own) for name, own in blocks.items()}, repeats))
    return {"seconds": seconds} | describe(list(points), list(seconds.values()))


def describe(at: Sequence[float], seconds: Sequence[float]) -> dict[str, float]:
    """The exponent of the growth, the fixed share of the first point, and the largest distance to the fitted line."""
    x, y = np.array(at, float), np.array(seconds)
    slope, fixed = np.polyfit(x, y, 1, w=1 / y)  # relative errors count alike at all points
    line = fixed + slope * x
    return {
        "factor": round(float(x[-1] / x[0]), 2),
        "exponent": round(math.log(y[-1] / y[0]) / math.log(x[-1] / x[0]), 3),
        "fixed": round(float(fixed / y[0]), 3),
        "largest_distance_to_line": round(float(np.abs(line / y - 1).max()), 3),
    }


def count_gflop(size: Size) -> float:
    """Floating-point operations of a block, in units of 1e9."""
    _, blocks = new_block(size, "dmd2", 1)
    with FlopCounterMode(display=False) as counter:
        next(blocks)
    return round(counter.get_total_flops() / 1e9, 3)


if __name__ == "__main__":
    main()
