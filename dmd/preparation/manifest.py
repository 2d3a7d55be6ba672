"""The manifest of prepared data: counts, classes, hashes of files, and duplicates between splits."""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import Tensor

from dmd.config import DataConfig
from dmd.data.splits import Manifest, open_images, seal
from dmd.errors import DataError, is_control
from dmd.preparation.shards import class_caption
from dmd.preparation.sources.base import MAX_NAME, Source
from dmd.storage.files import sha256

IMAGES_AT_ONCE = 256  # images in memory while duplicates are counted


def check_classes(cfg: DataConfig, source: Source) -> None:
    """Raise DataError for a class whose name or caption could not be stored or shown."""
    seen = set[str]()
    names, images = source.class_names, len(source.pools.get("train", ()))
    if images and len(names) > images:  # before a loop over what may be millions
        raise DataError(f"there are {len(names):,} classes, but only {images:,} images to train on; add images")
    for i, name in enumerate(names):
        fault = ""
        if name != name.encode(errors="replace").decode():
            fault = "its name is not UTF-8 text"
        elif any(map(is_control, name)):
            fault = "its name has control characters"
        elif len(name) > MAX_NAME:
            fault = f"its name has {len(name):,} characters, more than {MAX_NAME}"
        elif len(class_caption(cfg, source, i)) > cfg.max_caption:
            fault = f"its caption is longer than data.max_caption = {cfg.max_caption} characters"
        elif name in seen:
            fault = "two classes have this name"
        seen.add(name)
        if fault:
            raise DataError(f"class {name[:MAX_NAME]!r}: {fault}; rename it")


def check_labels(source: Source, labels: Mapping[str, Tensor]) -> None:
    """Raise DataError if a split is empty, or a class has no image to train on. labels: by split."""
    for split, values in labels.items():
        if not len(values):
            raise DataError(f"no usable image is left in the split {split}")
    for i, name in enumerate(source.class_names):
        if not (labels["train"] == i).any():
            raise DataError(f"class {name!r} has no usable image to train on; add some, or remove the class")


def new_manifest(cfg: DataConfig, source: Source, labels: Mapping[str, Tensor], folder: Path) -> Manifest:
    """Describe the shards in a folder, with the hash of the description itself. labels: by split."""
    names = source.class_names
    per_class = {split: values.bincount(minlength=len(names)).tolist() for split, values in labels.items()}
    manifest = {
        "source": cfg.source,
        "image_shape": [cfg.channels, cfg.size, cfg.size],
        "class_names": list(names),
        "class_captions": [class_caption(cfg, source, i) for i in range(len(names))],
        "counts": {split: len(values) for split, values in labels.items()},
        "also_in_train": _count_duplicates(folder, labels),
        "per_class": per_class if names else {},
        "sha256": {file.name: sha256(file) for file in sorted(folder.iterdir())},
        **({"passed_by": dict(sorted(source.passed_by.items()))} if source.passed_by else {}),
    }
    return seal(manifest)


def _count_duplicates(folder: Path, splits: Mapping[str, Tensor]) -> dict[str, int]:
    """Count the images of every other split that are also in train, equal in every pixel."""
    train = set(_digests(folder, "train"))
    return {split: sum(digest in train for digest in _digests(folder, split)) for split in splits if split != "train"}


def _digests(folder: Path, split: str) -> Iterator[bytes]:
    """Yield a hash of 16 bytes for each stored image."""
    images = open_images(folder, split)
    for start in range(0, len(images), IMAGES_AT_ONCE):
        for image in images[start : start + IMAGES_AT_ONCE].numpy():
            yield hashlib.blake2b(image.tobytes(), digest_size=16).digest()
