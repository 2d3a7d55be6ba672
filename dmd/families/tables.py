"""Tables of caption embeddings, which a network looks up by the caption's index.

Rows of a table have one shape, or are sequences of different lengths, which are padded to the longest of a batch.

A small table is held in memory. A large one stays on disk, or is computed row by row if no stage has written it:
500,000 captions of Stable Diffusion take 118 GB.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn

from dmd.data.sequences import Padded, SequenceRows, Sequences
from dmd.data.shards import Rows

MAX_BYTES_IN_MEMORY = 256 * 2**20  # a larger table is read from disk, batch by batch
KEPT = 2  # batches that a table on disk keeps


@dataclass(frozen=True)
class ComputedRows:
    """Rows of a table that are computed when they are read."""

    compute: Callable[[tuple[int, ...]], "Embedded"]  # different indices -> rows, float32 on the CPU

    def __getitem__(self, index: Tensor) -> "Embedded":
        distinct, position = index.unique(return_inverse=True)
        return self.compute(tuple(distinct.tolist()))[position]


Embedded = Tensor | Sequences  # rows of a table: [B, ...], or B sequences of different lengths
# "embeddings" [K + 1, L, D] of each caption's tokens, or K + 1 sequences of them, and for some families "pooled"
# [K + 1, D'] of the whole caption. The last row belongs to the empty caption.
Table = Embedded | Rows | SequenceRows | ComputedRows
Tables = Mapping[str, Table]


class StoredTexts(NamedTuple):
    """Captions, and the tables of their embeddings from stage `encode`; no tables for a teacher that takes none."""

    captions: tuple[str, ...]
    tables: Tables | None

    def of(self, captions: Sequence[str]) -> Tables | None:
        """Return the tables if they are those of these captions; None otherwise."""
        return self.tables if self.captions == tuple(captions) else None


NO_TEXTS = StoredTexts((), None)


class Constant(nn.Module):
    """A module of buffers that never change: copies of a network, as generator, critic and averages, share them."""

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        """Return another module with the same buffers: to move or to cast one of the two leaves the other as it is."""
        new = type(self).__new__(type(self))
        nn.Module.__init__(new)
        for name, buffer in self.named_buffers(recurse=False):
            new.register_buffer(name, buffer, persistent=False)
        return new


class TableInMemory(Constant):
    """A table on the network's own device: index [B] -> rows [B, ...]."""

    table: Tensor

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.register_buffer("table", table, persistent=False)

    def forward(self, index: Tensor) -> Tensor:
        return self.table[index]


class SequencesInMemory(Constant):
    """A table of sequences on the network's own device: index [B] -> sequences, padded to the longest of all.

    Padding to the longest of a batch would make the host wait for the device.
    """

    values: Tensor
    lengths: Tensor

    def __init__(self, sequences: Sequences) -> None:
        super().__init__()
        self.register_buffer("values", sequences.padded().values, persistent=False)
        self.register_buffer("lengths", sequences.lengths, persistent=False)

    def forward(self, index: Tensor) -> Padded:
        mask = torch.arange(self.values.shape[1], device=index.device) < self.lengths[index][:, None]
        return Padded(self.values[index], mask)


class TableOnDisk(nn.Module):
    """A table on disk, or one that is computed: index [B] -> rows [B, ...] or padded sequences, float32.

    The table keeps the last two batches, since teacher, critic and generator look up the same captions one after
    another, and a guided teacher looks them up together with the null caption.
    """

    def __init__(self, rows: Rows | SequenceRows | ComputedRows) -> None:
        super().__init__()
        self.rows = rows
        self.kept: list[tuple[Tensor, Tensor | Padded]] = []  # indices and rows of the last batches, the newest first

    def forward(self, index: Tensor) -> Tensor | Padded:
        for place, (earlier, found) in enumerate(self.kept):
            if earlier.device == index.device and torch.equal(earlier, index):
                self.kept.insert(0, self.kept.pop(place))
                return found
        rows = self.rows[index.cpu()]
        found = rows.float().to(index.device) if isinstance(rows, Tensor) else _pad(rows).to(index.device)
        self.kept[:] = [(index, found), *self.kept][:KEPT]
        return found

    def __deepcopy__(self, memo: dict[int, object]) -> "TableOnDisk":
        """Return the table itself, so that copies of a network share the last batches."""
        return self


def new_table(rows: Table) -> nn.Module:
    """Return a module that looks up rows by their index: in memory, or row by row if they are too large."""
    if isinstance(rows, Rows | SequenceRows) and rows.nbytes <= MAX_BYTES_IN_MEMORY:
        rows = rows[:]
    if isinstance(rows, Tensor):
        return TableInMemory(rows.float())
    if isinstance(rows, Sequences):
        return SequencesInMemory(replace(rows, values=rows.values.float()))
    return TableOnDisk(rows)


def _pad(sequences: Sequences) -> Padded:
    """Return sequences in float32 as one tensor."""
    return replace(sequences, values=sequences.values.float()).padded()
