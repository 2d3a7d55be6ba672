"""Prepared data as the stages read them: images on disk, labels and captions, all checked by their hashes."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from dmd.data.shards import Images, Rows, Selected, Shard, shard_name
from dmd.errors import DataError
from dmd.storage.files import sha256

SPLITS: tuple[str, ...] = ("train", "validation", "test")
MANIFEST = "manifest.json"
SEAL = "sha256 of the rest"  # key in the manifest: the hash of everything else in it
DIGIT_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
Manifest = dict[str, Any]


@dataclass(frozen=True)
class Split:
    """One stored split. labels [N] index the conditions: classes, or captions if there are no classes.

    Without classes, class_names is empty and class_captions holds the distinct captions. A split of prompts alone has
    no images.
    """

    images: Images
    labels: Tensor
    captions: list[str]
    class_names: tuple[str, ...]
    class_captions: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        return self.images.shape[1:]

    @property
    def has_images(self) -> bool:
        """False for prompts alone."""
        return len(self.images) > 0

    @property
    def conditions(self) -> tuple[str, ...]:
        """The name of each label: a class or a caption."""
        return self.class_names or self.class_captions


def load_split(folder: Path | str, name: str, with_images: bool = True) -> Split:
    """Load one split; its images stay on disk.

    Raises DataError if a file is missing or differs from the manifest, or if `with_images` and there are only prompts.
    """
    folder = Path(folder)
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        if seal(manifest) != manifest:
            raise DataError(f"{folder / MANIFEST} has changed since it was written; run the data stage again")
        shards = _shard_names(manifest, name)
        for file in (f"{s}.{suffix}" for s in shards for suffix in ("safetensors", "captions.txt")):
            if sha256(folder / file) != manifest["sha256"][file]:
                raise DataError(f"{folder / file} has changed since it was prepared; run the data stage again")
        images = Images([Shard.find(folder / f"{s}.safetensors", "images") for s in shards])
        labels = torch.cat([load_file(folder / f"{s}.safetensors")["labels"] for s in shards])
        captions = [c for s in shards for c in (folder / f"{s}.captions.txt").read_text().split("\n")[:-1]]
        if not len(labels) == len(captions) == manifest["counts"][name]:
            raise DataError(f"{folder}: a shard of {name!r} is not in the manifest; run the data stage again")
    except (OSError, KeyError, json.JSONDecodeError, UnicodeDecodeError, SafetensorError) as e:
        raise DataError(f"{folder}: no usable split {name!r} ({e}); run the data stage again") from None
    if with_images and not len(images):
        raise DataError(
            f"{folder} holds only prompts (data.source: {manifest['source']}); use a data.source with images"
        )
    return _new_split(images, labels, captions, tuple(manifest["class_names"]), tuple(manifest["class_captions"]))


def load_splits(folder: Path, names: Sequence[str], with_images: bool = True) -> Split:
    """Load several splits as one, in the order of their names. Raises DataError as load_split does."""
    splits = [load_split(folder, name, with_images) for name in names]
    return _new_split(
        Images([shard for split in splits for shard in split.images.shards]),
        torch.cat([split.labels for split in splits]),
        [caption for split in splits for caption in split.captions],
        splits[0].class_names,
        splits[0].class_captions,
    )


def _new_split(
    images: Images, labels: Tensor, captions: list[str], names: tuple[str, ...], class_captions: tuple[str, ...]
) -> Split:
    """Choose the conditions: classes if there are several; captions for a single class or for prompts alone."""
    distinct = sorted(set(captions))
    if not len(images):
        return Split(images, torch.arange(len(captions)), captions, (), tuple(captions))
    if len(names) <= 1 and len(distinct) > 1:
        position = {caption: i for i, caption in enumerate(distinct)}
        return Split(images, torch.tensor([position[c] for c in captions]), captions, (), tuple(distinct))
    return Split(images, labels, captions, names, class_captions)


def half(split: Split, k: int) -> Split:
    """Half k of a split: the images at even positions for 0, at odd positions for 1. Its conditions stay the same."""
    images, labels, captions = Selected(split.images, k, 2), split.labels[k::2], split.captions[k::2]
    return Split(images, labels, captions, split.class_names, split.class_captions)


def seal(manifest: Manifest) -> Manifest:
    """Add the manifest's own hash, the only one that covers class names and captions, which a teacher depends on."""
    content = json.dumps({key: value for key, value in manifest.items() if key != SEAL}, sort_keys=True)
    return {**manifest, SEAL: hashlib.sha256(content.encode()).hexdigest()}


def split_sha256(folder: Path, *names: str) -> str:
    """Return the hash of the images and labels of splits: the hash of a single shard, or of all shards' hashes."""
    manifest = json.loads((folder / MANIFEST).read_text())
    hashes = [manifest["sha256"][f"{s}.safetensors"] for name in names for s in _shard_names(manifest, name)]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def images_sha256(images: Images) -> str:
    """Return the hash of the pixels of images in their order, which does not depend on how shards divide them."""
    digest = hashlib.sha256(str(tuple(images.shape)).encode())
    for part in images.split(64):  # few, since images may be large
        digest.update(part.contiguous().numpy().data)
    return digest.hexdigest()


def _shard_names(manifest: Manifest, split: str) -> list[str]:
    """Return the names of a split's shards in order; there is at least one."""
    count = sum(f"{shard_name(split, k)}.safetensors" in manifest["sha256"] for k in range(len(manifest["sha256"])))
    return [shard_name(split, k) for k in range(max(count, 1))]


def shard_files(folder: Path, split: str) -> list[Path]:
    """Return the files of a split's shards in a folder that has no manifest yet, in order."""
    files, k = list[Path](), 0
    while (file := folder / f"{shard_name(split, k)}.safetensors").exists():
        files.append(file)
        k += 1
    return files


def open_images(folder: Path, split: str) -> Rows:
    """Return the uint8 images [N, C, H, W] of a split in a folder that has no manifest yet."""
    return Rows([Shard.find(file, "images") for file in shard_files(folder, split)])
