"""Processes that run blocks of training on demand, so that two trees or two settings can be timed in turns."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from benchmarks.block import Size

BLOCK = Path(__file__).with_name("block.py")
ROOT = BLOCK.parents[1]


class Seconds(NamedTuple):
    """The duration of a block, and the row of the log that it ended with."""

    cpu: float
    clock: float
    numbers: Mapping[str, Any] = MappingProxyType({})


class Worker:
    """A process that runs blocks with the modules of a tree."""

    def __init__(
        self, tree: Path, size: Size, method: str = "dmd2", env: Mapping[str, str] | None = None, **order: Any
    ) -> None:
        """order: device, precision, trunk, compile, channels_last, tf32, numbers and live (benchmarks/block.py).

        env: further environment variables, such as those by which processes that share a batch find each other.
        """
        self.process = subprocess.Popen(
            [sys.executable, str(BLOCK), json.dumps({"size": asdict(size), "method": method} | order)],
            cwd=tree,
            env={**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"} | dict(env or {}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run_block(self) -> Seconds:
        """Run one block; the first one also warms up. Raises RuntimeError if the process has ended."""
        self.start_block()
        return self.finish_block()

    def start_block(self) -> None:
        """Start a block without waiting for it. If the process has ended, `finish_block` says so."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.write("\n")
            self.process.stdin.flush()

    def finish_block(self) -> Seconds:
        """Wait for the block that was started. Raises RuntimeError if the process has ended."""
        assert self.process.stdout is not None
        if not (answer := self.process.stdout.readline()):
            raise RuntimeError(f"benchmarks/block.py ended with exit code {self.process.wait()}; its error is above")
        return Seconds(*json.loads(answer))

    def close(self) -> None:
        """End the process; nothing happens if it has ended."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # a line that an ended process has not read is still in the buffer
            self.process.stdin.close()
        self.process.wait()


def in_turns(workers: Mapping[str, Worker], repeats: int) -> dict[str, list[Seconds]]:
    """Run one block of each worker, then `repeats` further ones of all workers in turns, and end the workers.

    Returns the durations by worker; a worker that fails is left out.
    """
    seconds: dict[str, list[Seconds]] = {name: [] for name in workers}
    for _ in range(repeats + 1):
        for name, worker in workers.items():
            if name in seconds:
                try:
                    seconds[name].append(worker.run_block())
                except RuntimeError:
                    del seconds[name]
    for worker in workers.values():
        worker.close()
    return seconds
