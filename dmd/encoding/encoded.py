"""Reads the output of stage `encode`: latents of the training images, and embeddings of the captions."""

import json
from dataclasses import dataclass
from pathlib import Path

from dmd.data.shards import Rows, Shard
from dmd.errors import DataError
from dmd.storage.files import sha256

MANIFEST = "manifest.json"
LATENTS, TEXTS = "latents", ("embeddings", "pooled")  # names of the stored tensors


@dataclass(frozen=True)
class Encoded:
    """The stored tensors, whose rows stay on disk; None for tensors that the teacher does not need."""

    latents: Rows | None  # [N, C, H, W] of the training images, as the network sees them
    texts: dict[str, Rows] | None  # tables by name: a row for each condition and, last, for the empty caption


def load_encoded(folder: Path) -> Encoded:
    """Read the output of `encode`. Raises DataError if a file is missing or has changed."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        for name, expected in manifest["sha256"].items():
            if sha256(folder / name) != expected:
                raise DataError(f"{folder / name} has changed since it was encoded; run the encode stage again")
        rows = open_rows(folder, manifest["tensors"])
    except (OSError, KeyError, json.JSONDecodeError, UnicodeDecodeError) as e:
        raise DataError(f"{folder} holds no usable output of the encode stage ({e}); run it again") from None
    return Encoded(rows.get(LATENTS), {name: rows[name] for name in TEXTS if name in rows} or None)


def open_rows(folder: Path, tensors: dict[str, list[str]]) -> dict[str, Rows]:
    """Return the rows of each tensor. tensors: for each name, the files that hold its rows, in order."""
    return {name: Rows([Shard.find(folder / file, name) for file in files]) for name, files in tensors.items()}
