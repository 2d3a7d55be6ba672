"""Tables of caption embeddings, which a network looks up by the caption's index.

A small table is held in memory. A large one stays on disk, or is computed row by row if no stage has written it:
500,000 captions of Stable Diffusion take 118 GB.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dmd.data.shards import Rows

MAX_BYTES_IN_MEMORY = 256 * 2**20  # a larger table is read from disk, batch by batch


@dataclass(frozen=True)
class ComputedRows:
    """Rows of a table that are computed when they are read."""

    compute: Callable[[tuple[int, ...]], Tensor]  # different indices -> rows [B, ...], float32 on the CPU

    def __getitem__(self, index: Tensor) -> Tensor:
        distinct, position = index.unique(return_inverse=True)
        return self.compute(tuple(distinct.tolist()))[position]


# "embeddings" [K + 1, L, D] of each caption's tokens and, for SDXL, "pooled" [K + 1, D'] of the whole caption.
# The last row belongs to the empty caption.
Table = Tensor | Rows | ComputedRows
Tables = Mapping[str, Table]


class TableInMemory(nn.Module):
    """A table on the network's own device: index [B] -> rows [B, ...]."""

    table: Tensor

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.register_buffer("table", table, persistent=False)

    def forward(self, index: Tensor) -> Tensor:
        return self.table[index]


class TableOnDisk(nn.Module):
    """A table on disk, or one that is computed: index [B] -> rows [B, ...], float32.

    The table keeps the last batch, since teacher, critic and generator look up the same captions one after another.
    """

    def __init__(self, rows: Rows | ComputedRows) -> None:
        super().__init__()
        self.rows = rows
        self.last: list[Tensor] = []  # an index and its rows

    def forward(self, index: Tensor) -> Tensor:
        if not self.last or self.last[0].device != index.device or not torch.equal(self.last[0], index):
            self.last[:] = [index, self.rows[index.cpu()].float().to(index.device)]
        return self.last[1]

    def __deepcopy__(self, memo: dict[int, object]) -> "TableOnDisk":
        """Return the table itself, so that copies of a network share the last batch."""
        return self


def new_table(rows: Table) -> nn.Module:
    """Return a module that looks up rows by their index: in memory, or row by row if they are too large."""
    if isinstance(rows, Tensor):
        return TableInMemory(rows)
    if isinstance(rows, ComputedRows):
        return TableOnDisk(rows)
    return TableInMemory(rows[:].float()) if rows.nbytes <= MAX_BYTES_IN_MEMORY else TableOnDisk(rows)
