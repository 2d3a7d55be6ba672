"""A data set by name, split and stored: images, labels, captions, and a manifest with counts and hashes."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dmd.config import DataConfig
from dmd.draws import Draws
from dmd.errors import DataError
from dmd.files import new_folder, sha256, write_text

SPLITS: tuple[str, ...] = ("train", "validation", "test")
DIGIT_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclass(frozen=True)
class Dataset:
    """images [N, C, H, W] uint8, labels [N] int64, and the words that captions are made of."""

    images: Tensor
    labels: Tensor
    class_names: tuple[str, ...]
    caption: str  # a template with {name}


@dataclass(frozen=True)
class Split:
    """One stored split; class_names is empty where there are no labels."""

    images: Tensor
    labels: Tensor
    captions: list[str]
    class_names: tuple[str, ...]
    class_captions: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        c, h, w = self.images.shape[1:]
        return c, h, w


def _digits() -> Dataset:
    from sklearn.datasets import load_digits  # the import costs a second, and only this source needs it

    digits: Any = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)  # 17 grey levels, 0..16
    return Dataset(
        torch.from_numpy(images)[:, None], torch.from_numpy(digits.target).long(), DIGIT_NAMES, "a handwritten {name}"
    )


SOURCES: dict[str, Callable[[], Dataset]] = {"digits": _digits}


@dataclass(frozen=True)
class Reals:
    """Real data as a network sees them: x [N, C, H, W] images in [-1, 1] or their latents, labels [N]."""

    x: Tensor
    labels: Tensor

    def draw(self, rng: Draws, like: Tensor) -> tuple[Tensor, Tensor]:
        """x [B, C, H, W] of the kind of `like`, and labels [B], with repetition."""
        index = rng.integers(0, len(self.x))
        return self.x[index].to(like), self.labels[index].to(like.device)


def to_unit(images: Tensor) -> Tensor:
    """uint8 0..255 -> float32 [-1, 1], the range of diffusion models."""
    return images.float() / 127.5 - 1


def prepare(cfg: DataConfig, out: Path) -> dict[str, int]:
    """Split the data set and write it to `out`. Returns each split's count. Raises DataError if none is left."""
    dataset = SOURCES[cfg.source]()
    n = len(dataset.images)
    held_out = cfg.validation + cfg.test
    if held_out >= n:
        raise DataError(
            f"data.validation + data.test = {held_out} leaves nothing to train on: {cfg.source} has {n} images"
        )
    order = torch.randperm(n, generator=torch.Generator().manual_seed(cfg.seed))
    parts = dict(zip(SPLITS, order.split([n - held_out, cfg.validation, cfg.test]), strict=True))
    with new_folder(out) as folder:
        for name, index in parts.items():
            labels = dataset.labels[index]
            save_file({"images": dataset.images[index].contiguous(), "labels": labels}, folder / f"{name}.safetensors")
            captions = [dataset.caption.format(name=dataset.class_names[i]) for i in labels.tolist()]
            write_text(folder / f"{name}.captions.txt", "".join(f"{c}\n" for c in captions))
        write_text(folder / "manifest.json", json.dumps(_manifest(cfg, dataset, parts, folder), indent=2) + "\n")
    return {name: len(index) for name, index in parts.items()}


def _manifest(cfg: DataConfig, dataset: Dataset, parts: Mapping[str, Tensor], folder: Path) -> dict:
    return {
        "source": cfg.source,
        "image_shape": list(dataset.images.shape[1:]),
        "class_names": list(dataset.class_names),
        "class_captions": [dataset.caption.format(name=name) for name in dataset.class_names],
        "counts": {name: len(index) for name, index in parts.items()},
        "per_class": {
            name: dataset.labels[i].bincount(minlength=len(dataset.class_names)).tolist() for name, i in parts.items()
        },
        "sha256": {p.name: sha256(p) for p in sorted(folder.iterdir())},
    }


def load_split(folder: Path, name: str) -> Split:
    """Load one split. Raises DataError where a file is missing or is not the one that the manifest describes."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        for file in (f"{name}.safetensors", f"{name}.captions.txt"):
            if sha256(folder / file) != manifest["sha256"][file]:
                raise DataError(f"{folder / file} has changed since it was prepared; run the data stage again")
        tensors = load_file(folder / f"{name}.safetensors")
        captions = (folder / f"{name}.captions.txt").read_text().splitlines()
    except (OSError, KeyError, json.JSONDecodeError, SafetensorError) as e:
        raise DataError(f"{folder}: no usable split {name!r} ({e}); run the data stage again") from None
    return Split(
        tensors["images"],
        tensors["labels"],
        captions,
        tuple(manifest["class_names"]),
        tuple(manifest["class_captions"]),
    )
