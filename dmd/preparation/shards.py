"""Reads and resizes the records of one shard and writes them."""

import errno
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import UnidentifiedImageError
from safetensors.torch import save_file
from torch import Tensor

from dmd.config import DataConfig
from dmd.errors import DataError, is_control
from dmd.preparation.images import fit_image
from dmd.preparation.partition import Part
from dmd.preparation.sources.base import MAX_SHOWN, Pool, Skipped, Source
from dmd.storage.files import sha256, write_text

# Errors of the system, not of the file: the run stops and does not skip the record.
SYSTEM_ERRORS = (errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.EACCES, errno.ENOMEM)


@dataclass(frozen=True)
class Example:
    """A record in memory: its image uint8 [C, H, W] (None for a prompt alone), label and caption."""

    image: np.ndarray | None
    label: int
    caption: str | None


def class_caption(cfg: DataConfig, source: Source, label: int) -> str:
    """Return the caption of a class, for its images that have no caption of their own."""
    return " ".join(cfg.caption.format(name=source.class_names[label]).split())


def write_shard(
    cfg: DataConfig, source: Source, split: str, part: Part, file: Path, threads: ThreadPoolExecutor
) -> list[Skipped]:
    """Write one shard, unless an earlier run wrote it, and return the records that were skipped.

    file: path without suffix. FILE.done.json is written last and marks the shard as complete. A shard is written again
    if its files are missing or have changed, or if it skipped records, since a user may have repaired them.
    """
    done, stored = Path(f"{file}.done.json"), (Path(f"{file}.safetensors"), Path(f"{file}.captions.txt"))
    if done.exists() and all(path.exists() for path in stored):
        earlier = json.loads(done.read_text())
        if not earlier["skipped"] and earlier["sha256"] == [sha256(path) for path in stored]:
            return []
    examples: list[Example] = []
    skipped: list[Skipped] = []
    for i, result in zip(part.index.tolist(), _read_all(cfg, part, threads), strict=True):
        if isinstance(result, Example):
            examples.append(result)
        else:
            skipped.append(Skipped(split, part.pool.name(i)[:MAX_SHOWN], result))
    save_file(_to_tensors(cfg, examples), stored[0])
    captions = (e.caption or class_caption(cfg, source, e.label) for e in examples)
    write_text(stored[1], "".join(f"{caption}\n" for caption in captions))
    state = {"skipped": [(s.name, s.reason) for s in skipped], "sha256": [sha256(path) for path in stored]}
    write_text(done, json.dumps(state))
    return skipped


def _read_all(cfg: DataConfig, part: Part, threads: ThreadPoolExecutor) -> list[Example | str]:
    """Read the records in several threads, in order: an example, or the reason why it cannot be used."""
    return list(threads.map(lambda i: _read(cfg, part.pool, i), part.index.tolist()))


def _read(cfg: DataConfig, pool: Pool, i: int) -> Example | str:
    """Read record i, or say why it cannot be used. Raises DataError for an error of the system."""
    try:
        record = pool.read(i)
        image = None if record.image is None else fit_image(record.image, cfg.size, cfg.channels)
        caption = record.caption and _check_caption(cfg, record.caption)
        return Example(image, record.label, caption)
    except MemoryError:
        raise
    except Exception as e:  # Pillow raises many types for a damaged file
        if isinstance(e, OSError) and e.errno in SYSTEM_ERRORS:
            raise DataError(f"{pool.name(i)} cannot be read: {e.strerror}; repair that and start again") from None
        return _reason(e)


def _check_caption(cfg: DataConfig, caption: str) -> str:
    """Return a caption on one line. Raises ValueError if it is too long, not UTF-8, or would control a terminal."""
    if len(caption) > cfg.max_caption:
        raise ValueError(f"its caption has more than data.max_caption = {cfg.max_caption} characters")
    caption.encode()
    line = " ".join(caption.split())
    if any(map(is_control, line)):
        raise ValueError("its caption has control characters")
    return line


def _reason(error: Exception) -> str:
    """Describe an error in the same words in every run; Pillow's text contains a memory address."""
    if isinstance(error, UnidentifiedImageError):
        return "not a picture, or a picture of an unknown format"
    if isinstance(error, UnicodeDecodeError | UnicodeEncodeError):
        return f"its caption is not UTF-8 text ({error.reason})"
    return " ".join(str(error).split()) or type(error).__name__


def _to_tensors(cfg: DataConfig, examples: list[Example]) -> dict[str, Tensor]:
    """Stack images [N, C, H, W] and labels [N]."""
    images = [e.image for e in examples if e.image is not None]
    empty = np.empty((0, cfg.channels, cfg.size, cfg.size), np.uint8)
    labels = torch.tensor([e.label for e in examples], dtype=torch.int64)
    return {"images": torch.from_numpy(np.stack(images) if images else empty), "labels": labels}
