"""Data sets that are arrays: scikit-learn's digits, the idx files of MNIST and Fashion-MNIST, CIFAR-10."""

import gzip
import math
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dmd.config import NONE, DataConfig
from dmd.data.splits import DIGIT_NAMES
from dmd.errors import DataError
from dmd.preparation.sources.base import LazyPool, Pool, Record, Source, hash_files
from dmd.storage.scratch import scratch_root

IDX_SPLITS = {"train": "train", "test": "t10k"}  # MNIST's names for its splits
IDX_KINDS = ("images-idx3", "labels-idx1")
IDX_BYTE = 8  # idx's code for unsigned bytes
IDX_DIMENSIONS, IDX_BYTES = 3, 2**30  # of an array; EMNIST, the largest, has 0.6 GiB


def array_pool(images: np.ndarray, labels: Sequence[int] | np.ndarray) -> Pool:
    """Return a pool of images [N, H, W] or [N, H, W, 3] uint8 with labels [N]."""
    return LazyPool(range(len(images)), lambda i: Record(Image.fromarray(images[i]), int(labels[i])))


def digits(cfg: DataConfig) -> Source:
    """List scikit-learn's digits: 1,797 grey images of 8x8, which are part of its package."""
    from sklearn.datasets import load_digits  # the import takes a second, and only this source needs it

    data: Any = load_digits()
    images = np.rint(data.images * (255 / 16)).astype(np.uint8)  # 17 grey levels, 0..16
    return Source({"train": array_pool(images, data.target)}, DIGIT_NAMES, identity="")


def mnist(cfg: DataConfig) -> Source:
    """List MNIST: 60,000 + 10,000 grey images of 28x28."""
    from torchvision.datasets import MNIST

    return _idx_source(cfg, MNIST, DIGIT_NAMES)


def fashion_mnist(cfg: DataConfig) -> Source:
    """List Fashion-MNIST: 60,000 + 10,000 grey images of 28x28."""
    from torchvision.datasets import FashionMNIST

    return _idx_source(cfg, FashionMNIST, tuple(FashionMNIST.classes))


def cifar10(cfg: DataConfig) -> Source:
    """List CIFAR-10: 50,000 + 10,000 colour images of 32x32."""
    from torchvision.datasets import CIFAR10

    root, download = data_root(cfg)
    sets: dict[str, Any] = {
        s: load_dataset(cfg, lambda t=s: CIFAR10(root, t == "train", download=download)) for s in ("train", "test")
    }
    pools = {split: array_pool(data.data, data.targets) for split, data in sets.items()}
    return Source(pools, tuple(sets["train"].classes), identity=str(root))


def data_root(cfg: DataConfig) -> tuple[Path, bool]:
    """Return the folder of a data set's files, and whether they may be downloaded: only if data.folder is none."""
    if cfg.folder != NONE:
        return Path(cfg.folder), False
    return scratch_root() / "downloads", True


def load_dataset(cfg: DataConfig, load: Callable[[], Any]) -> Any:
    """Call `load`. Raises DataError for any exception: libraries raise many types for a missing file or network."""
    try:
        return load()
    except MemoryError:
        raise
    except Exception as e:
        reason = " ".join(str(e).split()) or type(e).__name__
        raise DataError(
            f"data.source: {cfg.source} could not be loaded ({reason}); without a network, fetch its files elsewhere "
            "and set data.folder (docs/data.md)"
        ) from None


def _idx_source(cfg: DataConfig, dataset: Any, class_names: tuple[str, ...]) -> Source:
    """List a data set of idx files; dataset: torchvision's class for it, which downloads them."""
    root, download = data_root(cfg)
    raw = root / dataset.__name__ / "raw"  # torchvision's layout
    if download:
        load_dataset(cfg, lambda: dataset(root, download=True))
    elif not raw.is_dir():
        raw = root
    files = {(split, kind): _find_idx_file(cfg, raw, split, kind) for split in IDX_SPLITS for kind in IDX_KINDS}
    pools = {}
    for split in IDX_SPLITS:
        images, labels = (read_idx(files[split, kind]) for kind in IDX_KINDS)
        if images.ndim != 3 or labels.shape != images.shape[:1] or labels.max(initial=0) >= len(class_names):
            raise DataError(f"{files[split, 'labels-idx1']}: not the labels of {files[split, 'images-idx3']}")
        pools[split] = array_pool(images, labels)
    return Source(pools, class_names, hash_files(files.values()))


def _find_idx_file(cfg: DataConfig, folder: Path, split: str, kind: str) -> Path:
    """Return an idx file, plain or compressed. Raises DataError if it is missing."""
    name = f"{IDX_SPLITS[split]}-{kind}-ubyte"
    for file in (folder / name, folder / f"{name}.gz"):
        if file.is_file():
            return file
    raise DataError(f"data.folder: {folder} has no {name} or {name}.gz, which data.source: {cfg.source} needs")


def read_idx(file: Path) -> np.ndarray:
    """Read an idx file of bytes: two zeros, the type, the number of dimensions, the dimensions, the values.

    Raises DataError if the file is damaged.
    """
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as content:
            head = content.read(4)
            if len(head) < 4 or head[:3] != bytes([0, 0, IDX_BYTE]):
                raise DataError(f"{file} is not an idx file of bytes")
            dimensions = content.read(4 * head[3])
            if len(dimensions) < 4 * head[3]:
                raise DataError(f"{file} is not an idx file of bytes")
            shape = tuple(np.frombuffer(dimensions, ">u4").tolist())
            if len(shape) > IDX_DIMENSIONS or math.prod(shape) > IDX_BYTES:
                raise DataError(f"{file}: an array of shape {shape[:4]} is larger than any idx file of this kind")
            values = np.frombuffer(content.read(math.prod(shape) + 1), np.uint8)
    except (EOFError, gzip.BadGzipFile, zlib.error) as e:
        raise DataError(f"{file} is damaged: {e}") from None
    if len(values) != math.prod(shape):
        raise DataError(f"{file} is truncated or too long for an array of shape {shape}")
    return values.reshape(shape)
