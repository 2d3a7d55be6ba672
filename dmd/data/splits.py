"""Prepared data as the stages read them: images that stay on disk, labels, captions, all checked by their hashes."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from dmd.data.shards import Images, Rows, Shard, shard_name
from dmd.errors import DataError
from dmd.storage.files import sha256

SPLITS: tuple[str, ...] = ("train", "validation", "test")
MANIFEST, SEAL = "manifest.json", "sha256 of the rest"  # the seal: a name in it, and the hash of all else in it
DIGIT_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclass(frozen=True)
class Split:
    """One stored split; labels [N] name each image's condition, a class or a caption.

    Where there are no classes each caption is a condition of its own: class_names is empty then, and class_captions
    has the different captions. Prompts alone are such data without images.
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
        """Not so where there are prompts alone."""
        return len(self.images) > 0

    @property
    def conditions(self) -> tuple[str, ...]:
        """What each label stands for: a class's name, or a caption."""
        return self.class_names or self.class_captions


def load_split(folder: Path, name: str, with_images: bool = True) -> Split:
    """One split; its images stay on disk.

    Raises DataError where a file is missing or is not the one that the manifest describes, and where there are prompts
    alone though `with_images`.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        if sealed(manifest) != manifest:
            raise DataError(f"{folder / MANIFEST} has changed since it was written; run the data stage again")
        shards = _shards(manifest, name)
        for file in (f"{s}.{ending}" for s in shards for ending in ("safetensors", "captions.txt")):
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
        raise DataError(f"{folder} holds prompts alone (data.source: {manifest['source']}); this needs images")
    return _conditioned(images, labels, captions, tuple(manifest["class_names"]), tuple(manifest["class_captions"]))


def sealed(manifest: dict) -> dict:
    """With the hash of what it says: class names and captions are told to a teacher, and no other hash covers them."""
    said = json.dumps({key: value for key, value in manifest.items() if key != SEAL}, sort_keys=True)
    return {**manifest, SEAL: hashlib.sha256(said.encode()).hexdigest()}


def images_of(folder: Path, split: str) -> Rows:
    """uint8 images [N, C, H, W] of the shards of a split in a folder, whatever a manifest says."""
    files, k = [], 0
    while (file := folder / f"{shard_name(split, k)}.safetensors").exists():
        files.append(file)
        k += 1
    return Rows([Shard.find(file, "images") for file in files])


def _conditioned(
    images: Images, labels: Tensor, captions: list[str], names: tuple[str, ...], class_captions: tuple[str, ...]
) -> Split:
    """Classes are the conditions where there are several, captions where there is one class or prompts alone."""
    different = sorted(set(captions))
    if not len(images):
        return Split(images, torch.arange(len(captions)), captions, (), tuple(captions))
    if len(names) <= 1 and len(different) > 1:
        position = {caption: i for i, caption in enumerate(different)}
        return Split(images, torch.tensor([position[c] for c in captions]), captions, (), tuple(different))
    return Split(images, labels, captions, names, class_captions)


def load_splits(folder: Path, names: Sequence[str], with_images: bool = True) -> Split:
    """Several splits as one, in the order of their names. Raises DataError as load_split does."""
    splits = [load_split(folder, name, with_images) for name in names]
    return _conditioned(
        Images([shard for split in splits for shard in split.images.shards]),
        torch.cat([split.labels for split in splits]),
        [caption for split in splits for caption in split.captions],
        splits[0].class_names,
        splits[0].class_captions,
    )


def split_sha256(folder: Path, *names: str) -> str:
    """Hash of the images and labels of splits, by the manifest: of their one shard, or of the hashes of several."""
    manifest = json.loads((folder / MANIFEST).read_text())
    hashes = [manifest["sha256"][f"{s}.safetensors"] for name in names for s in _shards(manifest, name)]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def _shards(manifest: dict, split: str) -> list[str]:
    """The split's shards in order; it has at least one."""
    count = sum(f"{shard_name(split, k)}.safetensors" in manifest["sha256"] for k in range(len(manifest["sha256"])))
    return [shard_name(split, k) for k in range(max(count, 1))]
