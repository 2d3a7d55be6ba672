"""Deterministic teacher pairs (z, x) for the warm start and the regression loss: noise and the teacher's image.

The store has shards, as the data have. Memory holds one batch and one shard while they are made, and at most
MAX_BYTES_IN_MEMORY of them while they are used: the rows of a larger store stay on disk.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save, save_file
from torch import Tensor

from dmd.config import PairsConfig
from dmd.data.shards import Rows, Shard, shard_name
from dmd.data.splits import shard_files
from dmd.errors import DataError
from dmd.families.tables import MAX_BYTES_IN_MEMORY
from dmd.progress import Progress
from dmd.samplers.sampler import draw_noise
from dmd.samplers.solvers import SOLVERS
from dmd.storage.files import new_folder, write_bytes, write_text
from dmd.storage.finite import check_finite
from dmd.storage.seal import is_usable, write_seal
from dmd.teachers.teacher import Teacher
from dmd.training.random_source import RandomSource
from dmd.training.shared_work import ALONE, SharedWork

SHARD_BYTES = 64 * 2**20  # largest size of a shard
# Remedies in messages.
ANOTHER = "set pairs.steps or pairs.solver to another value, or use another teacher"
AGAIN = "run the pairs stage again"
STORE, MANIFEST = "pairs", "manifest.json"


class PairBatch(NamedTuple):
    """Some pairs in memory: z and x [B, C, H, W], labels [B]."""

    z: Tensor
    x: Tensor
    labels: Tensor | None


@dataclass(frozen=True)
class Pairs:
    """Noise z and images x, [N, C, H, W] float32 on the network's scale, in memory or as rows on disk.

    labels [N], None without conditions.
    """

    z: Tensor | Rows
    x: Tensor | Rows
    labels: Tensor | None
    staged: dict[object, PairBatch] = field(default_factory=dict, repr=False)  # read ahead, by turn and samples

    def __len__(self) -> int:
        return len(self.z)

    @property
    def device(self) -> torch.device:
        """The device that reads the pairs; it is the CPU for rows on disk."""
        return self.z.device if isinstance(self.z, Tensor) else torch.device("cpu")

    def to(self, device: torch.device) -> "Pairs":
        """Return a copy on another device; the same object if its rows are on disk."""
        if not isinstance(self.z, Tensor) or not isinstance(self.x, Tensor):
            return self
        return Pairs(self.z.to(device), self.x.to(device), None if self.labels is None else self.labels.to(device))

    def read(self, rng: RandomSource) -> PairBatch:
        """Read one pair for each sample of `rng`, drawn with replacement."""
        index = rng.fork("pairs", self.device).integers(0, len(self))
        return PairBatch(self.z[index], self.x[index], None if self.labels is None else self.labels[index])


@torch.inference_mode()
def make_pairs(
    teacher: Teacher,
    labels: Tensor | None,
    cfg: PairsConfig,
    device: torch.device,
    work: Path | None = None,
    share: SharedWork = ALONE,
) -> Iterator[PairBatch]:
    """Sample cfg.count pairs by cfg.solver in cfg.steps steps, and yield them in batches; one empty batch for count 0.

    labels [M]: used cyclically; None for no labels. work: a folder that keeps each finished batch, so that a killed run
    continues after it. share: the processes that share the batches; only this process's own are made. Raises
    TeacherError if the teacher's schedule is too short, and NumberError for an image with NaN or infinite values.
    """
    if cfg.count:
        teacher.check_steps("pairs.steps", cfg.steps)
    if not teacher.conditions:
        labels = None
    with Progress("pairs", cfg.count, "pairs") as progress:
        for start, z, part in share.own(_draw(teacher.shape, labels, cfg)):
            x = _sample(teacher, z, part, cfg, device, work and work / f"{start:09d}.safetensors")
            if cfg.count:
                progress.update(min(len(z) * share.processes, cfg.count - progress.done))
            yield PairBatch(z, x, part)


def _draw(
    shape: tuple[int, ...], labels: Tensor | None, cfg: PairsConfig
) -> Iterator[tuple[int, Tensor, Tensor | None]]:
    """Yield the first position, the noise and the labels of each batch."""
    rng = torch.Generator().manual_seed(cfg.seed)
    for start in range(0, max(cfg.count, 1), cfg.batch_size):
        index = torch.arange(start, min(start + cfg.batch_size, cfg.count))
        yield start, draw_noise(shape, len(index), rng), None if labels is None else labels[index % len(labels)]


def _sample(
    teacher: Teacher, z: Tensor, labels: Tensor | None, cfg: PairsConfig, device: torch.device, file: Path | None
) -> Tensor:
    """Return the teacher's images of noise z [B, C, H, W], or those that an earlier run kept in the file."""
    if file is not None and is_usable(file):
        return load_file(file)["x"]
    if not len(z):
        return z
    x = SOLVERS[cfg.solver].solve(
        teacher.guided, z.to(device), cfg.steps, None if labels is None else labels.to(device)
    )
    check_finite(x, f"the teacher's image of {cfg.solver} in {cfg.steps} steps", ANOTHER)
    x = x.cpu()
    if file is not None:
        write_bytes(file, save({"x": x}))
        write_seal(file)
    return x


def collect_pairs(batches: Iterable[PairBatch]) -> Pairs:
    """Join batches of pairs in memory, at least one. The tensors can take part in a backward pass."""
    return Pairs(*_join([*batches]))


def save_pairs(batches: Iterable[PairBatch], out: Path) -> int:
    """Write batches of pairs in shards of at most SHARD_BYTES; return the number of pairs."""
    kept: list[PairBatch] = []
    shards = count = 0
    with new_folder(out) as folder:
        for batch in batches:
            kept.append(batch)
            count += len(batch.z)
            size = max(1, SHARD_BYTES // max(1, _row_bytes(batch)))
            while sum(len(part.z) for part in kept) > size:
                whole = _join(kept)
                _save_shard(_slice(whole, 0, size), folder, shards)
                kept, shards = [_slice(whole, size, len(whole.z))], shards + 1
        _save_shard(_join(kept), folder, shards)
        write_text(folder / MANIFEST, json.dumps({"count": count}, indent=2) + "\n")
    return count


def _row_bytes(batch: PairBatch) -> int:
    """Bytes of one pair of the batch in float32: noise and image."""
    return 2 * torch.float32.itemsize * torch.Size(batch.z.shape[1:]).numel()


def _join(batches: list[PairBatch]) -> PairBatch:
    labels = [batch.labels for batch in batches if batch.labels is not None]
    z, x = torch.cat([batch.z for batch in batches]), torch.cat([batch.x for batch in batches])
    return PairBatch(z, x, torch.cat(labels) if labels else None)


def _slice(batch: PairBatch, start: int, stop: int) -> PairBatch:
    """Copy the pairs from `start` to `stop`, so that the memory of the others can be freed."""
    labels = None if batch.labels is None else batch.labels[start:stop].clone()
    return PairBatch(batch.z[start:stop].clone(), batch.x[start:stop].clone(), labels)


def _save_shard(batch: PairBatch, folder: Path, k: int) -> None:
    tensors = {"z": batch.z, "x": batch.x} | ({} if batch.labels is None else {"labels": batch.labels})
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / f"{shard_name(STORE, k)}.safetensors")


def load_pairs(folder: Path) -> Pairs:
    """Open the store that `save_pairs` wrote; rows of more than MAX_BYTES_IN_MEMORY stay on disk.

    Raises NumberError if it holds NaN or infinite values, and DataError if a shard is missing.
    """
    files = shard_files(folder, STORE)
    z, x = (_open_rows(files, name) for name in ("z", "x"))
    if len(z) != (count := json.loads((folder / MANIFEST).read_text())["count"]):
        raise DataError(f"{folder} has {len(z)} pairs of the {count} in its manifest; {AGAIN}")
    labels = _read_labels(files)
    if z.nbytes + x.nbytes <= MAX_BYTES_IN_MEMORY:
        return Pairs(z[:], x[:], labels)
    return Pairs(z, x, labels)


def _open_rows(files: list[Path], name: str) -> Rows:
    """Open the rows of all shards and read them once, a part at a time, to check that they are finite."""
    shards = [Shard.find(file, name) for file in files]
    for shard in shards:
        rows = Rows([shard])
        for part in rows.split(max(1, SHARD_BYTES * len(rows) // max(1, rows.nbytes))):
            check_finite(part, f"{shard.file}: {name}", AGAIN)
    return Rows(shards)


def _read_labels(files: list[Path]) -> Tensor | None:
    parts: list[Tensor] = []
    for file in files:
        with safe_open(file, "pt") as content:
            if "labels" in content.keys():  # noqa: SIM118 - the file is no dict
                parts.append(content.get_tensor("labels"))
    return torch.cat(parts) if parts else None
