"""Work that the processes of a stage share, such as batches of images. Results do not depend on their number.

Every process runs the same stage. It computes its own items, the n-th of every n, and gets those of the others; the
first process alone writes the stage's outputs.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")


@dataclass(frozen=True)
class SharedWork:
    """One of the processes that share work. Calls of all methods but `own` are collective."""

    rank: int = 0
    processes: int = 1

    @classmethod
    def join(cls, device: torch.device) -> "SharedWork":
        """Join the processes that the launcher started, each with its own GPU; alone without a launcher."""
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls()
        if device.type == "cuda":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("gloo")
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def is_main(self) -> bool:
        """Whether this process writes the outputs."""
        return self.rank == 0

    def own(self, items: Iterable[T]) -> Iterator[T]:
        """Yield the items that this process computes."""
        return islice(items, self.rank, None, self.processes)

    def join_up(self, results: list[T]) -> list[T]:
        """Return the results of all items in their order, from those of each process's own."""
        if self.processes == 1:
            return results
        gathered: list[Any] = [None] * self.processes
        dist.all_gather_object(gathered, results)
        count = sum(len(part) for part in gathered)
        return [gathered[i % self.processes][i // self.processes] for i in range(count)]

    def from_main(self, compute: Callable[[], T]) -> T:
        """Call `compute` in the first process and return its result in every process."""
        if self.processes == 1:
            return compute()
        box: list[Any] = [compute() if self.is_main else None]
        dist.broadcast_object_list(box)
        return box[0]

    def wait(self) -> None:
        """Wait for all processes."""
        if self.processes > 1:
            dist.barrier()


ALONE = SharedWork()
