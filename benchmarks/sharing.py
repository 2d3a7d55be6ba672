"""`python -m benchmarks.sharing`: the cost of a block of DMD2 with gan.shared_pass and reuse_images, as ratios.

Blocks without and with each option are interleaved in one process of one thread; a ratio is the median over repeats of
the CPU seconds with the option to those without. It writes records/sharing.json.
"""

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.block import SIZES, Size, new_block
from benchmarks.interleaved import ratios_to, time_in_turns
from dmd.storage.files import write_text

OPTIONS: dict[str, dict[str, Any]] = {
    "none": {},
    "shared_pass": {"gan": {"shared_pass": True}},
    "reuse_images": {"reuse_images": True},
    "both": {"reuse_images": True, "gan": {"shared_pass": True}},
}


def measure(size: Size, repeats: int) -> dict[str, float]:
    """The ratio of each option to a block without any."""
    blocks = {name: new_block(size, "dmd2", repeats + 2, options=options)[1] for name, options in OPTIONS.items()}
    return ratios_to("none", time_in_turns({name: partial(next, block) for name, block in blocks.items()}, repeats))


def main() -> None:
    """Measure and write the file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sharing", description=__doc__)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--repeats", type=int, default=9, help="blocks of each kind; medians are reported")
    parser.add_argument("--out", type=Path, default=Path("records/sharing.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    result = {name: measure(SIZES[name], args.repeats) for name in args.sizes}
    write_text(args.out, json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
