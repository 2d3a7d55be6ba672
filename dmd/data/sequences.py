"""Rows of different lengths, such as the token embeddings of captions: in memory and in shards on disk."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor

from dmd.data.shards import Rows

LENGTHS = ".lengths"  # suffix of the tensor in a shard that holds the lengths of another tensor's rows


class Padded(NamedTuple):
    """Sequences of a batch, padded at the end with zeros to the longest one."""

    values: Tensor  # [B, L, D]
    mask: Tensor  # [B, L] bool, true where a value belongs to the sequence

    def to(self, device: torch.device) -> "Padded":
        """Return a copy on another device."""
        return Padded(self.values.to(device), self.mask.to(device))

    def unpadded(self) -> list[Tensor]:
        """Return the sequences [L, D] one by one. The host waits for their lengths."""
        return [row[:length] for row, length in zip(self.values, self.mask.sum(1).tolist(), strict=True)]


@dataclass(frozen=True)
class Sequences:
    """A batch of B sequences, stored one after another without padding."""

    values: Tensor  # [sum of lengths, D]
    lengths: Tensor  # [B] int64
    longest: int  # the most values that a sequence of this kind can have

    @classmethod
    def unpad(cls, values: Tensor, mask: Tensor, longest: int) -> "Sequences":
        """Take the values of each row up to its last true one from [B, L, D] and mask [B, L].

        Raises ValueError for a mask with false values before true ones.
        """
        mask = mask.bool()
        lengths = mask.sum(1)
        if not torch.equal(mask, torch.arange(mask.shape[1], device=mask.device) < lengths[:, None]):
            raise ValueError("the tokenizer pads captions at the start; set its padding_side to right")
        return cls(values[mask], lengths.cpu(), longest)

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def nbytes(self) -> int:
        """Bytes of B sequences of the greatest length: an upper bound that does not depend on the captions."""
        return len(self) * self.longest * self.values.shape[1] * self.values.itemsize

    def __getitem__(self, index: Tensor) -> "Sequences":
        """Return the sequences at positions [B']."""
        return Sequences(self.values[positions(self.lengths, index)], self.lengths[index], self.longest)

    def padded(self) -> Padded:
        """Return the sequences as one tensor, padded to the longest of them, with its mask."""
        mask = torch.arange(max(1, int(self.lengths.max()))) < self.lengths[:, None]
        values = self.values.new_zeros(*mask.shape, self.values.shape[-1])
        values[mask] = self.values
        return Padded(values, mask)


def positions(lengths: Tensor, index: Tensor) -> Tensor:
    """Return the positions of the values of sequences `index` [B'] among the values of all, in order."""
    ends = lengths.cumsum(0)
    parts = [torch.arange(int(ends[i] - lengths[i]), int(ends[i])) for i in index.tolist()]
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.int64)


class SequenceRows:
    """Sequences in shards; indexing reads only the selected ones from disk."""

    def __init__(self, values: Rows, lengths: Tensor) -> None:
        """values: [sum of lengths, D] of all sequences in order; lengths: [N] int64."""
        self.values, self.lengths = values, lengths

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def longest(self) -> int:
        """The length of the longest sequence."""
        return int(self.lengths.max())

    @property
    def nbytes(self) -> int:
        """Bytes of all sequences as they are stored, once each is padded to the longest."""
        return self.values.nbytes // max(1, len(self.values)) * len(self) * self.longest

    def __getitem__(self, index: slice | Tensor) -> Sequences:
        """Read sequences by a slice or by int64 indices [B], none of them negative."""
        if isinstance(index, slice):
            index = torch.arange(*index.indices(len(self)))
        return Sequences(self.values[positions(self.lengths, index)], self.lengths[index], self.longest)

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        """Return the object itself, since it never changes."""
        return self


def concatenate(parts: Sequence[Tensor | Sequences]) -> Tensor | Sequences:
    """Join batches of rows in order. parts: at least one, all tensors or all sequences."""
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.cat([part for part in parts if isinstance(part, Tensor)])
    several = [part for part in parts if isinstance(part, Sequences)]
    values, lengths = torch.cat([part.values for part in several]), torch.cat([part.lengths for part in several])
    return Sequences(values, lengths, first.longest)
