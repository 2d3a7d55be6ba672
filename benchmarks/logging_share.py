"""`python -m benchmarks.logging_share`: what following a run in MLflow costs a training, as shares of a block.

Two processes train in turns. One hands each row to the live log, as stage `train` does, and this process follows it
as a flow does: a thread sends the rows to a local MLflow store. `writing` is the CPU time of handing a row over, as a
share of the block before it; `cpu` and `clock` are the ratios of a followed block to one that is not; `sending` is the
CPU time that the flow's process takes for a row, as a share of a block. It writes records/logging_share.json.
"""

import argparse
import contextlib
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.block import SIZES, Size
from benchmarks.workers import ROOT, Seconds, Worker, in_turns
from dmd.progress import LIVE
from dmd.storage.files import write_text
from flows.live.reporter import Job, follow
from flows.live.spool import Spool
from flows.registry.store import connect, experiment_id
from tests.helpers.toy_graph import commit, new_toy


class Nowhere:
    """A display that shows nothing."""

    def begin(self, run_id: str) -> None: ...
    def update(self, spool: Spool, is_last: bool) -> None: ...


def main() -> None:
    """Measure and write the file."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.logging_share", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--batch", type=int, help="images of a turn, in place of the size's own")
    parser.add_argument("--repeats", type=int, default=21, help="blocks of each kind; medians are reported")
    parser.add_argument("--out", type=Path, default=Path("records/logging_share.json"))
    args = parser.parse_args()
    result: dict[str, Any] = {}
    for name in args.sizes:
        size = replace(SIZES[name], batch_size=args.batch) if args.batch else SIZES[name]
        with followed_project() as root:
            result[name] = measure(root, size, args.repeats)
    write_text(args.out, json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


@contextlib.contextmanager
def followed_project() -> Iterator[Path]:
    """A small project with a store of its own, whose tables exist."""
    with tempfile.TemporaryDirectory() as name:
        root = new_toy(Path(name))
        (root / ".gitignore").write_text("/runs/\n")
        shutil.copy(ROOT / "params.yaml", root / "params.yaml")
        commit(root)
        with connect(root) as client:
            experiment_id(client, "onestep")
        yield root


def measure(root: Path, size: Size, repeats: int) -> dict[str, float]:
    """The shares, from blocks that run in turns."""
    with follow(Job(root, "benchmark", target="train"), Nowhere(), print) as reporter:
        live = {LIVE: str(reporter.folder / "train")}
        workers = {"alone": Worker(ROOT, size), "followed": Worker(ROOT, size, env=live, live=True)}
        start = time.process_time()
        seconds = in_turns(workers, repeats)
        reporter.finish()
        sending = (time.process_time() - start) / (repeats + 1)
    if missing := workers.keys() - seconds.keys():
        raise RuntimeError(f"the blocks of {missing} failed; the error is above")
    return describe(seconds, sending)


def describe(seconds: dict[str, list[Seconds]], sending: float) -> dict[str, float]:
    """Medians over the blocks after the first. sending: CPU seconds of the flow's process for a row."""
    alone, followed = (seconds[name][1:] for name in ("alone", "followed"))
    block = statistics.median(each.cpu for each in alone)
    pairs = list(zip(followed, alone, strict=True))
    return {
        "cpu_seconds_of_a_block": round(block, 4),
        "writing": round(statistics.median(each.numbers["log_seconds"] / each.cpu for each in followed), 6),
        "cpu": round(statistics.median(a.cpu / b.cpu for a, b in pairs), 4),
        "clock": round(statistics.median(a.clock / b.clock for a, b in pairs), 4),
        "sending": round(sending / block, 4),
    }


if __name__ == "__main__":
    main()
