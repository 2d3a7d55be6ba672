"""Prepares a data set: reads and resizes every image once and stores the splits, shard by shard.

Shards are written outside the output, in a folder named by everything they depend on, so that a killed run continues
there. Memory holds one shard at a time.
"""

import csv
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from dmd.config import NONE, DataConfig
from dmd.data.shards import shard_name
from dmd.data.splits import MANIFEST, SPLITS, Manifest, shard_files
from dmd.errors import DataError, printable
from dmd.preparation.manifest import check_classes, check_labels, new_manifest
from dmd.preparation.partition import Part, check_counts, choose_pools, partition
from dmd.preparation.pictures import picture_limits
from dmd.preparation.shards import write_shard
from dmd.preparation.sources import SOURCES
from dmd.preparation.sources.base import Skipped, Source
from dmd.preparation.sources.listing import check_regular_files
from dmd.progress import Progress
from dmd.storage.checkpoint import code_hash
from dmd.storage.files import new_folder, write_text
from dmd.storage.scratch import scratch_root

SHARD_BYTES, SHARD_IMAGES = 64 * 2**20, 16384  # largest size and largest number of images of a shard
NO_MINIMUM = dict.fromkeys(SPLITS, 1)  # images of each split, where no measure needs more
SKIPPED = "skipped.csv"  # list of the skipped records; missing if there are none
WORKERS = min(8, os.cpu_count() or 1)


@dataclass(frozen=True)
class Prepared:
    """Result of a preparation."""

    counts: dict[str, int]  # images of each split
    skipped: list[Skipped]
    also_in_train: dict[str, int]  # images of validation and test that are also in train, equal in every pixel
    passed_by: Mapping[str, int]  # number of files of each kind that hold no record


def prepare(cfg: DataConfig, out: Path, fewest: Mapping[str, int] = NO_MINIMUM) -> Prepared:
    """Prepare a data set; fewest: the smallest number of images in each split.

    Raises DataError if too many records are unusable, or too few are left in a split.
    """
    source, parts = list_parts(cfg, fewest)
    total = sum(len(part.index) for part in parts.values()) + len(source.left_out)
    work = _work_folder(cfg, source)
    skipped = list(source.left_out)
    _check_share(cfg, skipped, total, work)
    shard_size = min(SHARD_IMAGES, max(1, SHARD_BYTES // (cfg.channels * cfg.size**2)))
    with (
        Progress("data", total - len(skipped), "images") as progress,
        ThreadPoolExecutor(WORKERS) as threads,
        picture_limits(cfg.max_pixels),
    ):
        for split, part in parts.items():
            for k, index in enumerate(part.index.split(shard_size)):
                shard = Part(part.pool, index)
                skipped += write_shard(cfg, source, split, shard, work / shard_name(split, k), threads)
                progress.update(len(index))
                _check_share(cfg, skipped, total, work)
    manifest = _store(cfg, source, skipped, fewest, work, out)
    shutil.rmtree(work)
    return Prepared(manifest["counts"], skipped, manifest["also_in_train"], source.passed_by)


def list_parts(cfg: DataConfig, fewest: Mapping[str, int] = NO_MINIMUM) -> tuple[Source, dict[str, Part]]:
    """List a data set and divide its records into splits, without reading an image.

    fewest: the smallest number of images in each split. Raises DataError if the data set cannot be listed, or a split
    is too small.
    """
    if cfg.folder != NONE:
        check_regular_files(Path(cfg.folder))
    source = choose_pools(cfg, SOURCES[cfg.source].list_records(cfg))
    check_classes(cfg, source)
    parts = partition(cfg, source)
    check_counts({split: len(part.index) for split, part in parts.items()}, fewest)
    return source, parts


def _work_folder(cfg: DataConfig, source: Source) -> Path:
    """Return the folder of unfinished shards. Its name omits max_bad, so that a run with a larger max_bad continues."""
    key = {**cfg.model_dump(exclude={"max_bad"}), "identity": source.identity, "code": code_hash()}
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    folder = scratch_root() / f"data-{name}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _check_share(cfg: DataConfig, skipped: list[Skipped], total: int, work: Path) -> None:
    """Raise DataError, and list the unusable records in a file, if their share exceeds data.max_bad."""
    if len(skipped) <= cfg.max_bad * total:
        return
    _write_list(work / SKIPPED, skipped)
    raise DataError(
        f"{len(skipped)} of {total} images cannot be used, more than data.max_bad = {cfg.max_bad} allows; "
        f"the first: {skipped[0].name}: {skipped[0].reason}; list so far: {work / SKIPPED}"
    )


def _write_list(file: Path, skipped: Iterable[Skipped]) -> None:
    with file.open("w", newline="", encoding="utf-8", errors="backslashreplace") as lines:
        csv.writer(lines).writerows([Skipped._fields, *([printable(cell) for cell in row] for row in skipped)])


def _store(
    cfg: DataConfig, source: Source, skipped: list[Skipped], fewest: Mapping[str, int], work: Path, out: Path
) -> Manifest:
    """Move the shards to `out`, with the list of skipped records and the manifest. Returns the manifest."""
    labels = {s: torch.cat([load_file(file)["labels"] for file in shard_files(work, s)]) for s in SPLITS}
    check_labels(source, labels)
    check_counts({split: len(values) for split, values in labels.items()}, fewest, skipped)
    with new_folder(out) as folder:
        for file in (f for f in sorted(work.iterdir()) if f.suffix in (".safetensors", ".txt")):
            shutil.move(file, folder / file.name)
        if skipped:
            _write_list(folder / SKIPPED, skipped)
        manifest = new_manifest(cfg, source, labels, folder)
        write_text(folder / MANIFEST, json.dumps(manifest, indent=2) + "\n")
    return manifest
