"""Divides the records of a source into train, validation and test."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dmd.config import DataConfig
from dmd.data.splits import SPLITS
from dmd.errors import DataError
from dmd.preparation.sources.base import Pool, Skipped, Source, choose_splits


@dataclass(frozen=True)
class Part:
    """The records of one split: indices [N] into a pool, in random order."""

    pool: Pool
    index: Tensor


def choose_pools(cfg: DataConfig, source: Source) -> Source:
    """Return the source with a pool for each split that the data set holds out and the parameters ask for.

    Raises DataError if a split is not there, or has no usable record.
    """
    names = choose_splits(source.pools, {"validation": cfg.validation_split, "test": cfg.test_split})
    unused = source.pools.keys() - names.values()
    left_out = [record for record in source.left_out if record.split not in unused]
    for split, name in names.items():
        if split != "train" and not len(source.pools[name]):
            reason = next((f": {r.name}: {r.reason}" for r in left_out if r.split == name), "")
            raise DataError(
                f"the split {name} of the data set has no usable record{reason}; "
                f"name another split in data.{split}_split, or none, which draws from train"
            )
    in_unused = {name: len(source.pools[name]) + sum(r.split == name for r in source.left_out) for name in unused}
    passed_by = {**source.passed_by, **{f"in split {name}": n for name, n in sorted(in_unused.items())}}
    pools = {split: source.pools[name] for split, name in names.items()}
    return replace(source, pools=pools, left_out=left_out, passed_by=passed_by)


MEASURES = {"train": "baseline.neighbours", "validation": "train.validation.draws", "test": "baseline.neighbours"}


def check_counts(counts: Mapping[str, int], fewest: Mapping[str, int], skipped: Sequence[Skipped] = ()) -> None:
    """Raise DataError for a split with fewer images than the measures need; fewest: by split."""
    unusable = f" beside {len(skipped)} unusable ones ({skipped[0].name}: {skipped[0].reason})" if skipped else ""
    for split, number in fewest.items():
        if counts[split] < number:
            raise DataError(
                f"the split {split} has {counts[split]} images{unusable}, but the measures need {number} "
                f"(data.{split}, {MEASURES[split]}); use more images, or lower that key"
            )


def partition(cfg: DataConfig, source: Source) -> dict[str, Part]:
    """Return the records of each split; splits that the data set itself holds out stay held out.

    Raises DataError if the data set lacks a split that the parameters need, or if nothing is left to train on.
    """
    train = source.pools.get("train", ())
    parts: dict[str, Part] = {}
    counts: dict[str, int] = {}  # records to take from train, by split
    for split, count in (("validation", cfg.validation), ("test", cfg.test)):
        own = source.pools.get(split)
        if own is not None:
            parts[split] = Part(own, _shuffle(len(own), cfg.seed)[: _held_out(split, count, len(own))])
        elif count == "all":
            raise DataError(f"data.{split}: all needs a {split} split in the data set, and there is none; use a number")
        else:
            counts[split] = int(count)
    if sum(counts.values()) >= len(train):
        held_out = " + ".join(f"data.{split}" for split in counts) or "the splits"
        unusable = f", and {len(source.left_out)} unusable: {source.left_out[0].reason}" if source.left_out else ""
        raise DataError(
            f"{held_out} = {sum(counts.values())} leaves nothing to train on: {cfg.source} has {len(train)} images"
            + unusable
        )
    sizes = [len(train) - sum(counts.values()), *counts.values()]
    for split, index in zip(("train", *counts), _shuffle(len(train), cfg.seed).split(sizes), strict=True):
        parts[split] = Part(source.pools["train"], index)
    return {split: parts[split] for split in SPLITS}


def _held_out(split: str, count: int | str, available: int) -> int:
    """Return the number of records to take from a split that the data set itself holds out."""
    if count == "all":
        return available
    if int(count) > available:
        raise DataError(
            f"data.{split}: {count} is more than the {available} images in the data set's {split} split; use fewer"
        )
    return int(count)


def _shuffle(n: int, seed: int) -> Tensor:
    """Return the indices 0..n-1 in random order."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))
