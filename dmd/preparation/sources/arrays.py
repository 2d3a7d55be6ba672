"""Data sets that come as arrays: scikit-learn's digits, MNIST's idx files, CIFAR-10."""

import gzip
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dmd.config import NONE, DataConfig
from dmd.data.splits import DIGIT_NAMES
from dmd.errors import DataError
from dmd.preparation.sources.base import LazyPool, Pool, Record, Source, identity
from dmd.storage.checkpoint import scratch_root

IDX_FILES = {"train": "train", "test": "t10k"}  # how MNIST and its relatives call their splits
BYTE_TYPE = 8  # of idx: unsigned byte


def array_pool(images: np.ndarray, labels: Sequence[int] | np.ndarray) -> Pool:
    """images [N, H, W] or [N, H, W, 3] uint8, labels [N]."""
    return LazyPool(range(len(images)), lambda i: Record(Image.fromarray(images[i]), int(labels[i])))


def digits(cfg: DataConfig) -> Source:
    """1,797 grey images, 8x8; they come with scikit-learn."""
    from sklearn.datasets import load_digits  # the import costs a second, and only this source needs it

    data: Any = load_digits()
    images = np.rint(data.images * (255 / 16)).astype(np.uint8)  # 17 grey levels, 0..16
    return Source({"train": array_pool(images, data.target)}, DIGIT_NAMES, identity="")


def mnist(cfg: DataConfig) -> Source:
    """60,000 + 10,000 grey images, 28x28."""
    from torchvision.datasets import MNIST

    return _idx_source(cfg, MNIST, DIGIT_NAMES)


def fashion_mnist(cfg: DataConfig) -> Source:
    """60,000 + 10,000 grey images, 28x28."""
    from torchvision.datasets import FashionMNIST

    return _idx_source(cfg, FashionMNIST, tuple(FashionMNIST.classes))


def cifar10(cfg: DataConfig) -> Source:
    """50,000 + 10,000 colour images, 32x32."""
    from torchvision.datasets import CIFAR10

    root, download = where(cfg)
    sets: dict[str, Any] = {
        s: fetched(cfg, lambda t=s: CIFAR10(root, t == "train", download=download)) for s in IDX_FILES
    }
    pools = {split: array_pool(data.data, data.targets) for split, data in sets.items()}
    return Source(pools, tuple(sets["train"].classes), identity=str(root))


def where(cfg: DataConfig) -> tuple[Path, bool]:
    """The folder that a data set is read from, and whether it may be downloaded: only where the user named none."""
    if cfg.folder != NONE:
        return Path(cfg.folder), False
    return scratch_root() / "downloads", True


def fetched(cfg: DataConfig, load: Callable[[], Any]) -> Any:
    """What `load` returns; torchvision raises many kinds for missing files, no network or a failed check."""
    try:
        return load()
    except Exception as e:
        if isinstance(e, MemoryError):
            raise
        why = " ".join(str(e).split()) or type(e).__name__
        raise DataError(
            f"data.source: {cfg.source} cannot be had ({why}); without a network, fetch its files elsewhere and set "
            f"data.folder (docs/data.md)"
        ) from None


def _idx_source(cfg: DataConfig, dataset: Any, class_names: tuple[str, ...]) -> Source:
    root, download = where(cfg)
    raw = root / dataset.__name__ / "raw"  # torchvision's layout
    if download:
        fetched(cfg, lambda: dataset(root, download=True))
    elif not raw.is_dir():
        raw = root
    files = {(s, kind): _idx_file(cfg, raw, s, kind) for s in IDX_FILES for kind in ("images-idx3", "labels-idx1")}
    pools = {}
    for split in IDX_FILES:
        images, labels = (read_idx(files[split, kind]) for kind in ("images-idx3", "labels-idx1"))
        if images.ndim != 3 or labels.shape != images.shape[:1] or labels.max(initial=0) >= len(class_names):
            raise DataError(f"{files[split, 'labels-idx1']}: not the labels of {files[split, 'images-idx3']}")
        pools[split] = array_pool(images, labels)
    return Source(pools, class_names, identity(files.values()))


def _idx_file(cfg: DataConfig, folder: Path, split: str, kind: str) -> Path:
    """The file, plain or compressed. Raises DataError if there is none."""
    name = f"{IDX_FILES[split]}-{kind}-ubyte"
    for file in (folder / name, folder / f"{name}.gz"):
        if file.is_file():
            return file
    raise DataError(f"data.folder: {folder} has no {name} or {name}.gz, which data.source: {cfg.source} needs")


def read_idx(file: Path) -> np.ndarray:
    """An idx file of bytes: two zeros, the type, the number of dimensions, the dimensions, the values."""
    try:
        content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    except (EOFError, gzip.BadGzipFile, zlib.error) as e:
        raise DataError(f"{file} is damaged: {e}") from None
    if len(content) < 4 or content[:3] != bytes([0, 0, BYTE_TYPE]) or len(content) < 4 + 4 * content[3]:
        raise DataError(f"{file} is not an idx file of bytes")
    shape = tuple(np.frombuffer(content, ">u4", content[3], offset=4).tolist())
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * len(shape))
    if len(values) != np.prod(shape, dtype=np.int64):
        raise DataError(f"{file} is cut short or too long: {len(values)} bytes for an array of shape {shape}")
    return values.reshape(shape)
