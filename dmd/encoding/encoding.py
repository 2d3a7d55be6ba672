"""What a latent teacher works on, made once: latents of the training images by its VAE, embeddings of the captions.

Stored in shards like the data, read from disk by the stages that follow. A run that was killed goes on after its last
whole shard. Of a teacher that works on pixels and is told of labels there is nothing to encode.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel, UNet2DModel
from safetensors.torch import save_file
from torch import Tensor

from dmd.codecs.latents import Latents, at_once
from dmd.config import EncodeConfig
from dmd.data.shards import Rows, Shard, shard_name
from dmd.data.splits import Split
from dmd.errors import DataError
from dmd.families.captions import AT_ONCE, embed, embed_none
from dmd.families.pipelines import load_pipeline, network_of
from dmd.progress import Progress
from dmd.storage.files import new_file, new_folder, sha256, write_text

SHARD_BYTES = 64 * 2**20  # of a shard, at most
TYPES = {"fp32": torch.float32, "fp16": torch.float16}
LATENTS, TEXTS = "latents", ("embeddings", "pooled")
Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Encoded:
    """What was stored, each None where there is none of it."""

    latents: Rows | None  # [N, C, H, W] of the training images, as the network sees them
    texts: dict[str, Rows] | None  # by name, a row for each condition and last one for none


def encode(
    cfg: EncodeConfig, split: Split, teacher: Path, work: Path, device: torch.device, out: Path
) -> dict[str, int]:
    """Store what the teacher in its folder needs of a split; shards are made in `work`. Returns rows by tensor.

    Raises TeacherError for a folder that cannot be used.
    """
    pipe = load_pipeline(teacher)
    net, dtype, files = network_of(pipe, teacher), TYPES[cfg.precision], []
    if split.has_images and not isinstance(net, UNet2DModel):
        codec, images = Latents(pipe.vae.eval().requires_grad_(False).to(device)), split.images.unit()
        with Progress("latents", len(images), "images") as progress:
            files += _store(
                work / LATENTS,
                len(images),
                at_once(*split.shape[1:]),
                dtype,
                progress,
                lambda rows: {LATENTS: codec.encode(images[rows])},
            )
    if isinstance(net, UNet2DConditionModel):
        for name in ("text_encoder", "text_encoder_2"):
            if hasattr(pipe, name):
                getattr(pipe, name).to(device)
        captions = split.class_captions
        with Progress("captions", len(captions), "captions") as progress:
            files += _store(
                work / "texts", len(captions), AT_ONCE, dtype, progress, lambda rows: embed(pipe, captions[rows])
            )
        files.append(_save(embed_none(pipe), dtype, work / "texts.none.safetensors"))
    tensors = _found(files)
    with new_folder(out) as folder:
        for file in files:
            shutil.move(file, folder / file.name)
        manifest = {"tensors": tensors, "sha256": {file.name: sha256(folder / file.name) for file in files}}
        write_text(folder / "manifest.json", json.dumps(manifest, indent=2) + "\n")
    return {name: len(rows) for name, rows in _rows(out, tensors).items()}


def load_encoded(folder: Path) -> Encoded:
    """Read what `encode` stored; rows stay on disk. Raises DataError where a file is missing or has changed."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        for name, expected in manifest["sha256"].items():
            if sha256(folder / name) != expected:
                raise DataError(f"{folder / name} has changed since it was encoded; run the encode stage again")
        rows = _rows(folder, manifest["tensors"])
    except (OSError, KeyError, json.JSONDecodeError, UnicodeDecodeError) as e:
        raise DataError(f"{folder}: nothing usable ({e}); run the encode stage again") from None
    return Encoded(rows.get(LATENTS), {name: rows[name] for name in TEXTS if name in rows} or None)


def _store(
    base: Path, count: int, at_once: int, dtype: torch.dtype, progress: Progress, rows_of: Callable[[slice], Tensors]
) -> list[Path]:
    """Write `count` rows in shards, those apart that are whole already. Returns the shards."""
    row = sum(tensor[:1].numel() * dtype.itemsize for tensor in rows_of(slice(0, 1)).values())
    per_shard = max(1, SHARD_BYTES // row)
    files = []
    for k, first in enumerate(range(0, count, per_shard)):
        last = min(count, first + per_shard)
        file = Path(f"{base.with_name(shard_name(base.name, k))}.safetensors")
        if file.exists():
            progress.update(last - first)
        else:
            parts = []
            for start in range(first, last, at_once):
                parts.append(rows_of(slice(start, min(last, start + at_once))))
                progress.update(min(last, start + at_once) - start)
            _save({name: torch.cat([part[name] for part in parts]) for name in parts[0]}, dtype, file)
        files.append(file)
    return files


def _save(tensors: Tensors, dtype: torch.dtype, file: Path) -> Path:
    """Write tensors to a safetensors file atomically. Returns the file."""
    with new_file(file) as tmp:
        save_file({name: tensor.to(dtype).contiguous() for name, tensor in tensors.items()}, tmp)
    return file


def _found(files: list[Path]) -> dict[str, list[str]]:
    """The names of the files that hold each tensor, in order."""
    found: dict[str, list[str]] = {}
    for file in files:
        for name in (LATENTS, *TEXTS):
            try:
                Shard.find(file, name)
            except KeyError:
                continue
            found.setdefault(name, []).append(file.name)
    return found


def _rows(folder: Path, tensors: dict[str, list[str]]) -> dict[str, Rows]:
    return {name: Rows([Shard.find(folder / file, name) for file in files]) for name, files in tensors.items()}
