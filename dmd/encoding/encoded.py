"""Reads the output of stage `encode`: latents of the training images, and embeddings of the captions."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dmd.data.prompts import read_prompts
from dmd.data.sequences import LENGTHS, SequenceRows
from dmd.data.shards import Rows, Shard
from dmd.errors import DataError
from dmd.families.tables import StoredTexts
from dmd.storage.files import sha256

MANIFEST = "manifest.json"
PROMPTS = "prompts.txt"
LATENTS, TEXTS = "latents", ("embeddings", "pooled")  # names of the stored tensors


@dataclass(frozen=True)
class Encoded:
    """The stored tensors, whose rows stay on disk; None for tensors that the teacher does not need."""

    latents: Rows | None  # [N, C, H, W] of the training images, as the network sees them
    texts: dict[str, Rows | SequenceRows] | None  # tables: a row for each condition and, last, for the empty caption
    captions: tuple[str, ...] = ()  # of these rows: those of the data, then the generator's own prompts
    prompts: int = 0  # number of the generator's own prompts

    @property
    def stored(self) -> StoredTexts:
        """The captions with the tables of their embeddings."""
        return StoredTexts(self.captions, self.texts)

    @property
    def own_prompts(self) -> tuple[str, ...]:
        """The generator's own prompts, which replace the captions of the data in training; empty if it has none."""
        return self.captions[len(self.captions) - self.prompts :]

    def draw_from(self, labels: Tensor) -> Tensor:
        """Return the conditions [N] of generated images: the generator's own prompts, or the data's labels."""
        return torch.arange(len(self.captions) - self.prompts, len(self.captions)) if self.prompts else labels


def load_encoded(folder: Path, captions: Sequence[str] = ()) -> Encoded:
    """Read the output of `encode`; captions: those of the data. Raises DataError if a file is missing or changed."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        for name, expected in manifest["sha256"].items():
            if sha256(folder / name) != expected:
                raise DataError(f"{folder / name} has changed since it was encoded; run the encode stage again")
        rows = open_rows(folder, manifest["tensors"])
        prompts = tuple(read_prompts(folder / PROMPTS)) if PROMPTS in manifest["sha256"] else ()
    except (OSError, KeyError, json.JSONDecodeError, UnicodeDecodeError) as e:
        raise DataError(f"{folder} holds no usable output of the encode stage ({e}); run it again") from None
    latents = rows.get(LATENTS)
    texts = {name: rows[name] for name in TEXTS if name in rows} or None
    return Encoded(latents if isinstance(latents, Rows) else None, texts, (*captions, *prompts), len(prompts))


def open_rows(folder: Path, tensors: dict[str, list[str]]) -> dict[str, Rows | SequenceRows]:
    """Return the rows of each tensor. tensors: for each name, the files that hold its rows, in order.

    A tensor with another one that holds lengths is read as sequences.
    """
    rows = {name: Rows([Shard.find(folder / file, name) for file in files]) for name, files in tensors.items()}
    return {
        name: SequenceRows(values, rows[name + LENGTHS][:]) if name + LENGTHS in rows else values
        for name, values in rows.items()
        if not name.endswith(LENGTHS)
    }
