"""Write small data sets, and read the folder that the data stage prepares from them."""

import csv
import gzip
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits

from dmd.config import DataConfig
from dmd.data.shards import to_unit
from dmd.data.splits import DIGIT_NAMES, Split, load_split
from dmd.distillation.inputs.batches import TrainingImages
from dmd.preparation.prepare import SKIPPED

# Changes to the group `data` that read the folder of `captioned_folder`.
CAPTIONED = {"source": "folder", "captions": "captions.csv", "validation": 40, "test": 60}
NewConfig = Callable[..., DataConfig]


def picture(value: int, size: tuple[int, int] = (8, 8)) -> Image.Image:
    """A grey image; its value identifies it."""
    return Image.new("L", size, value)


def png_bytes(value: int) -> bytes:
    """The content of a PNG file of one grey value."""
    content = io.BytesIO()
    picture(value).save(content, "PNG")
    return content.getvalue()


def write_pictures(folder: Path, count: int, first: int = 0) -> None:
    """Write `count` images whose grey values begin at `first`."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        picture(first + i).save(folder / f"{first + i:03d}.png")


def stored(out: Path) -> dict[str, Split]:
    """The splits of a prepared folder by name."""
    return {name: load_split(out, name) for name in ("train", "validation", "test")}


def values(split: Split) -> list[int]:
    """The grey value of each stored image."""
    return [int(i.float().mean().round()) for i in split.images[:]]


def skipped(out: Path) -> list[list[str]]:
    """The rows of the list of skipped files, without its header."""
    with (out / SKIPPED).open(newline="") as lines:
        return list(csv.reader(lines))[1:]


def write_idx(file: Path, array: np.ndarray) -> None:
    """Write an array in MNIST's IDX format, compressed if the name ends in .gz."""
    head = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    content = head + array.astype(np.uint8).tobytes()
    file.write_bytes(gzip.compress(content) if file.suffix == ".gz" else content)


def write_mnist(folder: Path, ending: str) -> None:
    """Write MNIST's four files with 30 training and 10 test images of constant grey values."""
    folder.mkdir(parents=True)
    for name, count, first in (("train", 30, 0), ("t10k", 10, 100)):
        images = np.arange(first, first + count)[:, None, None] * np.ones((1, 28, 28))
        write_idx(folder / f"{name}-images-idx3-ubyte{ending}", images)
        write_idx(folder / f"{name}-labels-idx1-ubyte{ending}", np.arange(count) % 10)


def write_shard(file: Path, first: int, count: int) -> None:
    """Write a tar file of samples, each with an image, a label and a caption."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as tar:
        for i in range(first, first + count):
            image = io.BytesIO()
            picture(i).save(image, "PNG")
            for ending, content in (("png", image.getvalue()), ("cls", b"%d" % (i % 3)), ("txt", b"number %d" % i)):
                member = tarfile.TarInfo(f"a/{i:04d}.{ending}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def captioned_folder(folder: Path, n: int = 240) -> list[str]:
    """Write digits into one folder with a table of captions, and return the captions."""
    folder.mkdir(parents=True)
    digits = load_digits()
    captions = []
    with (folder / "captions.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file_name", "caption"])
        for i, (image, label) in enumerate(zip(digits.images[:n], digits.target[:n], strict=True)):
            Image.fromarray((image * 15.9).astype(np.uint8)).save(folder / f"{i:04d}.png")
            captions.append(f"a {'bold' if image.mean() > 5 else 'thin'} {DIGIT_NAMES[label]}")
            table.writerow([f"{i:04d}.png", captions[-1]])
    return captions


CAPTIONS = tuple(f"a handwritten {name}" for name in DIGIT_NAMES)


def split(n: int = 40) -> Split:
    """A split of random 8x8 images with labels and captions."""
    rng = torch.Generator().manual_seed(11)
    images = torch.randint(256, (n, 1, 8, 8), generator=rng, dtype=torch.uint8)
    return Split(images, torch.arange(n) % 10, ["a digit"] * n, DIGIT_NAMES, ("a digit",) * 10)


def reals(n: int = 40) -> TrainingImages:
    """The images of `split(n)` in [-1, 1], as the networks read them."""
    return TrainingImages(to_unit(split(n).images), split(n).labels)
