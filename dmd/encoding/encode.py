"""Computes the latents of the training images and the embeddings of the captions, once for all later stages.

They are stored in shards, as the data are, and later stages read them from disk. A killed run continues after
its last complete shard. A teacher that works on pixels with labels has nothing to encode.

The teacher's own network is not loaded. VAE and text encoders are on the device one after the other, and run in
bfloat16 if that is the stored type. In float16, text encoders such as T5 overflow: they then run in float32.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from safetensors.torch import save_file
from torch import Tensor, nn

from dmd.codecs.latents import Latents, vae_batch_size
from dmd.config import NONE, EncodeConfig
from dmd.data.prompts import read_prompts
from dmd.data.sequences import LENGTHS, Sequences, concatenate
from dmd.data.shards import Shard, shard_name
from dmd.data.splits import Split
from dmd.encoding.encoded import LATENTS, MANIFEST, PROMPTS, TEXTS, open_rows
from dmd.errors import ConfigError, DataError
from dmd.families.family import Family
from dmd.families.pipelines import find_family, load_pipeline
from dmd.families.tables import Embedded
from dmd.progress import Progress
from dmd.storage.files import new_file, new_folder, sha256, write_text
from dmd.storage.finite import check_finite
from dmd.storage.seal import is_usable, write_seal
from dmd.training.shared_work import ALONE, SharedWork

SHARD_BYTES = 64 * 2**20  # largest size of a shard
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}  # values of encode.precision
Tensors = Mapping[str, Embedded]


def encode(
    cfg: EncodeConfig,
    split: Split,
    teacher: Path,
    work: Path,
    device: torch.device,
    out: Path,
    share: SharedWork = ALONE,
) -> dict[str, int]:
    """Encode a split for the teacher in folder `teacher`; shards are written to `work` and then moved to `out`.

    The captions of the split come first, then the prompts of cfg.prompts, which are stored, too. share: the processes
    that share the shards; the first one moves them. Returns the number of rows of each tensor, in the first process.
    Raises TeacherError if the folder cannot be used as a teacher, DataError for a file without prompts, and ConfigError
    for prompts that the teacher does not take.
    """
    prompts = _read_prompts(cfg)
    pipe = load_pipeline(teacher, precision="bf16" if cfg.precision == "bf16" else "fp32", only_encoders=True)
    family, dtype = find_family(pipe, teacher), TYPES[cfg.precision]
    if prompts and not family.takes_captions:
        raise ConfigError(f"encode.prompts: {family.parts} takes no captions; set it to {NONE}")
    files: list[Path] = []
    if family.on_latents and split.has_images:
        files += _encode_images(pipe, split, dtype, work, device, share)
    if family.takes_captions:
        files += _encode_captions(family, pipe, (*split.class_captions, *prompts), dtype, work, device, share)
    share.wait()
    if not share.is_main:
        return {}
    tensors = _list_tensors(files)
    with new_folder(out) as folder:
        for file in files:
            shutil.move(file, folder / file.name)
        hashes = {file.name: sha256(folder / file.name) for file in files}
        if prompts:
            write_text(folder / PROMPTS, "".join(f"{prompt}\n" for prompt in prompts))
            hashes[PROMPTS] = sha256(folder / PROMPTS)
        manifest = {"tensors": tensors, "sha256": hashes}
        write_text(folder / MANIFEST, json.dumps(manifest, indent=2) + "\n")
    return {name: len(rows) for name, rows in open_rows(out, tensors).items()}


def _read_prompts(cfg: EncodeConfig) -> tuple[str, ...]:
    """Return the generator's prompts, empty if it has none of its own. Raises DataError for a file without any."""
    if cfg.prompts == NONE:
        return ()
    if prompts := tuple(read_prompts(Path(cfg.prompts))):
        return prompts
    raise DataError(f"encode.prompts: {cfg.prompts} has no prompt; write one in each line")


def _encode_images(
    pipe: DiffusionPipeline, split: Split, dtype: torch.dtype, work: Path, device: torch.device, share: SharedWork
) -> list[Path]:
    """Write the latents of all images in shards. Returns the files."""
    codec, images = Latents(pipe.vae.eval().requires_grad_(False).to(device)), split.images.unit()

    def encode_rows(rows: slice) -> Tensors:
        return {LATENTS: codec.encode(images[rows])}

    with Progress("latents", len(images), "images") as progress:
        files = _write_shards(
            work / LATENTS, len(images), vae_batch_size(*split.shape[1:]), dtype, progress, encode_rows, share
        )
    pipe.vae.to("cpu")  # the text encoders need the device's memory
    return files


def _encode_captions(
    family: Family,
    pipe: DiffusionPipeline,
    captions: tuple[str, ...],
    dtype: torch.dtype,
    work: Path,
    device: torch.device,
    share: SharedWork,
) -> list[Path]:
    """Write the embeddings of all captions in shards and, last, of the empty caption. Returns the files."""
    for text_encoder in family.text_encoders(pipe):
        nn.Module.to(text_encoder, device)  # transformers types its own `to` as a method without arguments

    def embed_rows(rows: slice) -> Tensors:
        return family.embed(pipe, captions[rows])

    with Progress("captions", len(captions), "captions") as progress:
        files = _write_shards(
            work / "texts", len(captions), family.captions_at_once, dtype, progress, embed_rows, share
        )
    empty = work / "texts.none.safetensors"
    return [*files, _save(family.embed_empty(pipe), dtype, empty) if share.is_main else empty]


def _write_shards(
    base: Path,
    count: int,
    batch_size: int,
    dtype: torch.dtype,
    progress: Progress,
    compute: Callable[[slice], Tensors],
    share: SharedWork,
) -> list[Path]:
    """Write rows 0..count in shards, `batch_size` rows at a time; existing shards are kept. Returns all files.

    Each of the processes that share the work writes its own shards.
    """
    row_bytes = sum(rows.nbytes for rows in _convert(compute(slice(0, 1)), dtype).values())
    per_shard = max(1, SHARD_BYTES // row_bytes)
    files = []
    for k, first in enumerate(range(0, count, per_shard)):
        last = min(count, first + per_shard)
        file = Path(f"{base.with_name(shard_name(base.name, k))}.safetensors")
        if k % share.processes != share.rank or is_usable(file):
            progress.update(last - first)
        else:
            parts = []
            for start in range(first, last, batch_size):
                stop = min(last, start + batch_size)
                parts.append(compute(slice(start, stop)))
                progress.update(stop - start)
            _save({name: concatenate([part[name] for part in parts]) for name in parts[0]}, dtype, file)
        files.append(file)
    return files


def _save(tensors: Tensors, dtype: torch.dtype, file: Path) -> Path:
    """Write tensors to a safetensors file atomically, then its checksum. Returns the file.

    Raises NumberError unless they are finite.
    """
    with new_file(file) as tmp:
        stored: dict[str, Tensor] = {}
        for name, rows in _convert(tensors, dtype).items():
            stored[name] = rows if isinstance(rows, Tensor) else rows.values
            if isinstance(rows, Sequences):
                stored[name + LENGTHS] = rows.lengths
        for name, tensor in stored.items():
            check_finite(
                tensor, f"the teacher's {name} as {dtype}", "set encode.precision to fp32, or use another teacher"
            )
        save_file(stored, tmp)
    write_seal(file)
    return file


def _convert(tensors: Tensors, dtype: torch.dtype) -> Tensors:
    """Return the rows with their values in another type."""
    return {
        name: rows.to(dtype).contiguous()
        if isinstance(rows, Tensor)
        else replace(rows, values=rows.values.to(dtype).contiguous())
        for name, rows in tensors.items()
    }


def _list_tensors(files: list[Path]) -> dict[str, list[str]]:
    """Return the names of the files that hold each tensor, in order."""
    tensors: dict[str, list[str]] = {}
    for file in files:
        for name in (LATENTS, *TEXTS, *(name + LENGTHS for name in TEXTS)):
            try:
                Shard.find(file, name)
            except KeyError:
                continue
            tensors.setdefault(name, []).append(file.name)
    return tensors
