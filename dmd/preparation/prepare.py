"""A source of data -> stored splits: decoded and resized once, shard by shard, so that memory stays flat.

Shards are made outside the output, in a folder named by what they depend on: a run that was killed goes on there.
"""

import csv
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import UnidentifiedImageError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dmd.config import DataConfig
from dmd.data.shards import shard_name
from dmd.data.splits import MANIFEST, SPLITS, images_of, sealed
from dmd.errors import DataError
from dmd.preparation.images import adapted
from dmd.preparation.sources import SOURCES
from dmd.preparation.sources.base import Pool, Source
from dmd.progress import Progress
from dmd.storage.checkpoint import code_hash, scratch_root
from dmd.storage.files import new_folder, sha256, write_text

SHARD_BYTES, SHARD_IMAGES = 64 * 2**20, 16384  # at most: of its images, and how many
AT_ONCE = 256  # images that are read again to find copies
SKIPPED = "skipped.csv"  # images that could not be used; there is none if all could
WORKERS = min(8, os.cpu_count() or 1)
PASSING = (errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.EACCES, errno.ENOMEM)  # not the file's own fault
Skipped = tuple[str, str, str]  # split, name, reason


@dataclass(frozen=True)
class Prepared:
    """What was stored, by split, and what was not."""

    counts: dict[str, int]
    skipped: list[Skipped]
    also_in_train: dict[str, int]  # of validation and test, the images that are in train, too, pixel by pixel


def prepare(cfg: DataConfig, out: Path) -> Prepared:
    """Split, decode and store a data set. Raises DataError if too much is unusable, or nothing is left to train on."""
    source = SOURCES[cfg.source](cfg)
    if odd := next((n for n in source.class_names if n != n.encode(errors="replace").decode()), None):
        raise DataError(f"class {odd!r}: its name is not UTF-8 text; rename it")
    parts = _divided(cfg, source)
    total = sum(len(index) for _, index in parts.values()) + len(source.left_out)
    work = _work_folder(cfg, source)
    skipped = list(source.left_out)
    _check_share(cfg, skipped, total, work)
    per_shard = min(SHARD_IMAGES, max(1, SHARD_BYTES // (cfg.channels * cfg.size**2)))
    with Progress("data", total - len(skipped), "images") as progress, ThreadPoolExecutor(WORKERS) as threads:
        for split, (pool, order) in parts.items():
            for k, index in enumerate(order.split(per_shard)):
                skipped += _shard(cfg, source, pool, index, work / shard_name(split, k), split, threads)
                progress.update(len(index))
                _check_share(cfg, skipped, total, work)
    manifest = _store(cfg, source, skipped, work, out)
    shutil.rmtree(work)
    return Prepared(manifest["counts"], skipped, manifest["also_in_train"])


def _divided(cfg: DataConfig, source: Source) -> dict[str, tuple[Pool, Tensor]]:
    """Each split's pool, and which records of it in which order. What the data set holds out itself stays held out."""
    train = source.pools.get("train", ())
    wanted = {"validation": cfg.validation, "test": cfg.test}
    parts: dict[str, tuple[Pool, Tensor]] = {}
    taken: dict[str, int] = {}
    for split, count in wanted.items():
        own = source.pools.get(split)
        if own is not None:
            parts[split] = own, _shuffled(len(own), cfg.seed)[: _held_out(split, count, len(own))]
        elif count == "all":
            raise DataError(f"data.{split}: all needs a {split} split of the data set's own, and there is none")
        else:
            taken[split] = int(count)
    if sum(taken.values()) >= len(train):
        held_out = " + ".join(f"data.{split}" for split in taken) or "the splits"
        unusable = f", and {len(source.left_out)} unusable: {source.left_out[0][2]}" if source.left_out else ""
        raise DataError(
            f"{held_out} = {sum(taken.values())} leaves nothing to train on: {cfg.source} has {len(train)} images"
            + unusable
        )
    pieces = _shuffled(len(train), cfg.seed).split([len(train) - sum(taken.values()), *taken.values()])
    for split, index in zip(("train", *taken), pieces, strict=True):
        parts[split] = source.pools["train"], index
    return {split: parts[split] for split in SPLITS}


def _held_out(split: str, count: int | str, there: int) -> int:
    """Images of a split of the data set's own."""
    if count == "all":
        return there
    if int(count) > there:
        raise DataError(f"data.{split} = {count}: the data set's own {split} split has {there} images")
    return int(count)


def _shuffled(n: int, seed: int) -> Tensor:
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))


def _work_folder(cfg: DataConfig, source: Source) -> Path:
    """Where shards are made. The allowed share of bad images is not in its name: whoever raises it goes on."""
    made_of = {**cfg.model_dump(exclude={"max_bad"}), "identity": source.identity, "code": code_hash()}
    name = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:16]
    folder = scratch_root() / f"data-{name}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _shard(
    cfg: DataConfig, source: Source, pool: Pool, index: Tensor, file: Path, split: str, threads: ThreadPoolExecutor
) -> list[Skipped]:
    """Write one shard, unless an earlier run did; what was skipped is written last and says that it is whole.

    A run that was killed while its shards moved to the output has lost some, and makes those again; and those that have
    changed since, and those of which something was skipped: it may have been mended.
    """
    done, stored = Path(f"{file}.done.json"), (Path(f"{file}.safetensors"), Path(f"{file}.captions.txt"))
    if done.exists() and all(part.exists() for part in stored):
        earlier = json.loads(done.read_text())
        if not earlier["skipped"] and earlier["sha256"] == [sha256(part) for part in stored]:
            return []

    def attempt(i: int) -> tuple[np.ndarray | None, int, str | None] | tuple[str, str]:
        try:
            record = pool.read(i)
            image = None if record.image is None else adapted(record.image, cfg.size, cfg.channels)
            (record.caption or "").encode()
            return image, record.label, record.caption
        except MemoryError:
            raise
        except Exception as e:  # Pillow raises a dozen kinds for a damaged file
            if isinstance(e, OSError) and e.errno in PASSING:
                raise DataError(f"{pool.name(i)} cannot be read: {e.strerror}; mend that and start again") from None
            return pool.name(i), _reason(e)

    images, labels, captions, bad = [], [], [], []
    for found in threads.map(attempt, index.tolist()):
        if len(found) == 2:
            bad.append(found)
            continue
        image, label, caption = found
        images += [] if image is None else [image]
        labels.append(label)
        captions.append(" ".join((caption or _of_class(cfg, source, label)).split()))
    shape = (0, cfg.channels, cfg.size, cfg.size)
    stacked = torch.from_numpy(np.stack(images) if images else np.empty(shape, np.uint8))
    tensors = {"images": stacked, "labels": torch.tensor(labels, dtype=torch.int64)}
    save_file(tensors, stored[0])
    write_text(stored[1], "".join(f"{c}\n" for c in captions))
    write_text(done, json.dumps({"skipped": bad, "sha256": [sha256(part) for part in stored]}))
    return [(split, name, why) for name, why in bad]


def _reason(error: Exception) -> str:
    """The same each time, so that the output is: Pillow names the address of what it read."""
    if isinstance(error, UnidentifiedImageError):
        return "not a picture, or of a kind that is not known"
    if isinstance(error, UnicodeDecodeError | UnicodeEncodeError):
        return f"its caption is not UTF-8 text ({error.reason})"
    return " ".join(str(error).split()) or type(error).__name__


def _of_class(cfg: DataConfig, source: Source, label: int) -> str:
    return " ".join(cfg.caption.format(name=source.class_names[label]).split())


def _check_share(cfg: DataConfig, skipped: list[Skipped], total: int, work: Path) -> None:
    """Raise DataError, and leave a list, as soon as more is unusable than may be."""
    if len(skipped) <= cfg.max_bad * total:
        return
    _write_list(work / SKIPPED, skipped)
    _, name, why = skipped[0]
    raise DataError(
        f"{len(skipped)} of {total} images cannot be used, more than data.max_bad = {cfg.max_bad} allows; "
        f"the first: {name}: {why}; so far: {work / SKIPPED}"
    )


def _write_list(file: Path, skipped: Iterable[Skipped]) -> None:
    with file.open("w", newline="", encoding="utf-8", errors="backslashreplace") as lines:
        csv.writer(lines).writerows([("split", "name", "reason"), *skipped])


def _store(cfg: DataConfig, source: Source, skipped: list[Skipped], work: Path, out: Path) -> dict:
    """Move the shards to `out`, with the list of what was skipped and the manifest, which it returns."""
    labels = {split: _labels(work, split) for split in SPLITS}
    _check_left(source, labels)
    with new_folder(out) as folder:
        for file in (f for f in sorted(work.iterdir()) if f.suffix in (".safetensors", ".txt")):
            shutil.move(file, folder / file.name)
        if skipped:
            _write_list(folder / SKIPPED, skipped)
        manifest = sealed(_manifest(cfg, source, labels, folder))
        write_text(folder / MANIFEST, json.dumps(manifest, indent=2) + "\n")
    return manifest


def _labels(work: Path, split: str) -> Tensor:
    """Labels of all shards of a split."""
    found, k = [], 0
    while (file := work / f"{shard_name(split, k)}.safetensors").exists():
        found.append(load_file(file)["labels"])
        k += 1
    return torch.cat(found)


def _check_left(source: Source, labels: Mapping[str, Tensor]) -> None:
    for split, found in labels.items():
        if not len(found):
            raise DataError(f"no usable image is left in the split {split}")
    for i, name in enumerate(source.class_names):
        if not (labels["train"] == i).any():
            raise DataError(f"class {name!r} has no usable image to train on; add some, or remove the class")


def _manifest(cfg: DataConfig, source: Source, labels: Mapping[str, Tensor], folder: Path) -> dict:
    names = source.class_names
    return {
        "source": cfg.source,
        "image_shape": [cfg.channels, cfg.size, cfg.size],
        "class_names": list(names),
        "class_captions": [_of_class(cfg, source, i) for i in range(len(names))],
        "counts": {split: len(found) for split, found in labels.items()},
        "also_in_train": _also_in_train(folder, labels),
        "per_class": {s: found.bincount(minlength=len(names)).tolist() for s, found in labels.items()} if names else {},
        "sha256": {p.name: sha256(p) for p in sorted(folder.iterdir())},
    }


def _also_in_train(folder: Path, labels: Mapping[str, Tensor]) -> dict[str, int]:
    """How many images of the other splits are in train, too, under other names."""
    train = set(_digests(folder, "train"))
    return {split: sum(digest in train for digest in _digests(folder, split)) for split in labels if split != "train"}


def _digests(folder: Path, split: str) -> Iterator[bytes]:
    """Of each stored image; 16 bytes of it are enough."""
    images = images_of(folder, split)
    for start in range(0, len(images), AT_ONCE):
        for image in images[start : start + AT_ONCE].numpy():
            yield hashlib.blake2b(image.tobytes(), digest_size=16).digest()
