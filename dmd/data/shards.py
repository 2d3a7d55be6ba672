"""Tensors in safetensors files that are read row by row, so that they may be larger than memory."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from dmd.errors import DataError

# safetensors' names
TYPES = {
    "U8": torch.uint8, "I64": torch.int64, "F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32,
}  # fmt: skip


@dataclass(frozen=True)
class Shard:
    """The place of a tensor in a safetensors file. Rows are read, not mapped: mapped pages would fill the memory."""

    file: Path
    offset: int  # of the first row, in bytes
    shape: tuple[int, ...]  # (n, ...)
    dtype: torch.dtype

    @classmethod
    def find(cls, file: Path, name: str) -> "Shard":
        """Find a tensor in the file's header: 8 bytes of length, then JSON. Raises KeyError if it is not there."""
        with file.open("rb") as content:
            length = int.from_bytes(content.read(8), "little")
            entry = json.loads(content.read(length))[name]
        return cls(file, 8 + length + entry["data_offsets"][0], tuple(entry["shape"]), TYPES[entry["dtype"]])

    def read(self, index: Tensor) -> Tensor:
        """Read rows [B, ...] by their indices [B]. Raises DataError if the file is truncated."""
        rows = torch.empty((len(index), *self.shape[1:]), dtype=self.dtype)
        size = self.dtype.itemsize * torch.Size(self.shape[1:]).numel()
        buffers = rows.view(torch.uint8).view(len(index), size).numpy()  # numpy has no bfloat16
        with self.file.open("rb", buffering=0) as content:
            for buffer, i in zip(buffers, index.tolist(), strict=True):
                content.seek(self.offset + i * size)
                if content.readinto(buffer.data) != size:
                    raise DataError(f"{self.file} is truncated; run the stage that wrote it again")
        return rows


class Rows:
    """A tensor [N, ...] in shards; indexing reads only the selected rows from disk."""

    def __init__(self, shards: Sequence[Shard], convert: Callable[[Tensor], Tensor] | None = None) -> None:
        """shards: at least one. convert: a function that is applied to the rows after they are read."""
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
        """Bytes of all rows as they are stored."""
        return torch.Size(self.shape).numel() * self.shards[0].dtype.itemsize

    def __getitem__(self, index: slice | Tensor) -> Tensor:
        """Read rows [B, ...] by a slice or by int64 indices [B], none of them negative."""
        if isinstance(index, slice):
            index = torch.arange(*index.indices(len(self)))
        shard = torch.searchsorted(self.starts, index.contiguous(), right=True) - 1
        rows = torch.empty((len(index), *self.shape[1:]), dtype=self.shards[0].dtype)
        for k in shard.unique().tolist():
            in_shard = shard == k
            rows[in_shard] = self.shards[k].read(index[in_shard] - self.starts[k])
        return self.convert(rows) if self.convert else rows

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        """Return the object itself, since it never changes."""
        return self

    def split(self, size: int) -> Iterator[Tensor]:
        """Yield all rows in order, `size` at a time."""
        for start in range(0, len(self), size):
            yield self[start : start + size]


class Images(Rows):
    """Images [N, C, H, W], uint8 unless `convert` changes their type."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, C, H, W)."""
        n, c, h, w = super().shape
        return n, c, h, w

    def unit(self) -> "Images":
        """Return the same images in [-1, 1], converted after they are read."""
        return Images(self.shards, to_unit)


class Selected(Images):
    """Every `step`-th image of other images, from `start` on."""

    def __init__(self, images: Images, start: int, step: int) -> None:
        super().__init__(images.shards, images.convert)
        self.start, self.step = start, step
        self.index = torch.arange(start, super().__len__(), step)

    def unit(self) -> "Selected":
        """Return the same images in [-1, 1], converted after they are read."""
        return Selected(Images(self.shards, to_unit), self.start, self.step)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: slice | Tensor) -> Tensor:
        """Read images by their positions among the selected ones."""
        return super().__getitem__(self.index[index])


def to_unit(images: Tensor) -> Tensor:
    """Convert uint8 0..255 to float32 [-1, 1], the range of diffusion models."""
    return images.float() / 127.5 - 1


def shard_name(name: str, k: int) -> str:
    """Return the file name of shard k without its suffix; shard 0 has no number, since most tensors fit into one."""
    return f"{name}.{k:05d}" if k else name
