"""Rows of tensors in safetensors files, read as they are asked for: what is stored may be larger than memory."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from dmd.errors import DataError

TYPES = {"U8": torch.uint8, "F16": torch.float16, "F32": torch.float32}  # safetensors' names


@dataclass(frozen=True)
class Shard:
    """Where the rows of a stored tensor lie. They are read, not mapped: mapped pages would fill the memory."""

    file: Path
    offset: int  # of the first row, in bytes
    shape: tuple[int, ...]  # (n, ...)
    dtype: torch.dtype

    @classmethod
    def find(cls, file: Path, name: str) -> "Shard":
        """By the head of a safetensors file: its length, then what it holds as JSON. Raises KeyError."""
        with file.open("rb") as content:
            length = int.from_bytes(content.read(8), "little")
            found = json.loads(content.read(length))[name]
        return cls(file, 8 + length + found["data_offsets"][0], tuple(found["shape"]), TYPES[found["dtype"]])

    def read(self, index: Tensor) -> Tensor:
        """[B, ...] of indices [B]."""
        found = torch.empty((len(index), *self.shape[1:]), dtype=self.dtype)
        rows = found.numpy()
        size = rows[:1].nbytes
        with self.file.open("rb", buffering=0) as content:
            for row, i in zip(rows, index.tolist(), strict=True):
                content.seek(self.offset + i * size)
                if content.readinto(row.data) != size:
                    raise DataError(f"{self.file} has been cut short; run the stage that made it again")
        return found


class Rows:
    """[N, ...] in shards: only what is asked for is read."""

    def __init__(self, shards: Sequence[Shard], convert: Callable[[Tensor], Tensor] | None = None) -> None:
        """At least one shard; `convert` is applied to what is read."""
        self.shards, self.convert = shards, convert
        self.starts = torch.tensor([0, *(s.shape[0] for s in shards)]).cumsum(0)

    def __len__(self) -> int:
        return int(self.starts[-1])

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, ...)."""
        return len(self), *self.shards[0].shape[1:]

    @property
    def nbytes(self) -> int:
        """Of all rows, as they are stored."""
        return torch.Size(self.shape).numel() * self.shards[0].dtype.itemsize

    def __getitem__(self, index: slice | Tensor) -> Tensor:
        """[B, ...] of a slice or of int64 indices [B], none of them negative."""
        if isinstance(index, slice):
            index = torch.arange(*index.indices(len(self)))
        shard = torch.searchsorted(self.starts, index.contiguous(), right=True) - 1
        found = torch.empty((len(index), *self.shape[1:]), dtype=self.shards[0].dtype)
        for k in shard.unique().tolist():
            here = shard == k
            found[here] = self.shards[k].read(index[here] - self.starts[k])
        return self.convert(found) if self.convert else found

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        """Itself: nothing in it changes."""
        return self

    def split(self, size: int) -> Iterator[Tensor]:
        """All of them in order, `size` at a time."""
        for start in range(0, len(self), size):
            yield self[start : start + size]


class Images(Rows):
    """uint8 [N, C, H, W], or what `convert` makes of them."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, C, H, W)."""
        n, c, h, w = super().shape
        return n, c, h, w

    def unit(self) -> "Images":
        """The same in [-1, 1], converted where they are read."""
        return Images(self.shards, to_unit)


def to_unit(images: Tensor) -> Tensor:
    """uint8 0..255 -> float32 [-1, 1], the range of diffusion models."""
    return images.float() / 127.5 - 1


def shard_name(what: str, k: int) -> str:
    """Name of the k-th shard, without its ending; of something small there is one, without a number."""
    return f"{what}.{k:05d}" if k else what
