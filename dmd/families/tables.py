"""Tables of caption embeddings, which a network looks up by the caption's index.

A small table is held in memory. A large one stays on disk: 500,000 captions of Stable Diffusion take 118 GB.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from dmd.data.shards import Rows

MAX_BYTES_IN_MEMORY = 256 * 2**20  # a larger table is read from disk, batch by batch

# "embeddings" [K + 1, L, D] of each caption's tokens and, for SDXL, "pooled" [K + 1, D'] of the whole caption.
# The last row belongs to the empty caption.
Tables = Mapping[str, Tensor | Rows]


class TableInMemory(nn.Module):
    """A table on the network's own device: index [B] -> rows [B, ...]."""

    table: Tensor

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.register_buffer("table", table, persistent=False)

    def forward(self, index: Tensor) -> Tensor:
        return self.table[index]


class TableOnDisk(nn.Module):
    """A table on disk: index [B] -> rows [B, ...], float32.

    The table keeps the last batch, since teacher, critic and generator look up the same captions one after another.
    """

    def __init__(self, rows: Rows) -> None:
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


def new_table(rows: Tensor | Rows) -> nn.Module:
    """Return a module that looks up rows by their index: in memory, or on disk if they are too large."""
    if isinstance(rows, Tensor):
        return TableInMemory(rows)
    return TableInMemory(rows[:].float()) if rows.nbytes <= MAX_BYTES_IN_MEMORY else TableOnDisk(rows)
