"""CelebA by torchvision: 202,599 aligned faces in splits of their own, without classes."""

from typing import Any

from PIL import Image

from dmd.config import DataConfig
from dmd.preparation.sources.arrays import fetched, where
from dmd.preparation.sources.base import NO_CLASSES, LazyPool, Pool, Record, Source, identity

SPLITS = {"train": "train", "validation": "valid", "test": "test"}


def celeba(cfg: DataConfig) -> Source:
    """Its files lie in celeba/ of data.folder, as torchvision lays them out; a download needs the package gdown."""
    from torchvision.datasets import CelebA

    root, download = where(cfg)
    sets: dict[str, Any] = {
        split: fetched(cfg, lambda n=name: CelebA(str(root), n, target_type=[], download=download))
        for split, name in SPLITS.items()
    }
    faces = root / "celeba" / "img_align_celeba"
    pools: dict[str, Pool] = {
        split: LazyPool(data.filename, lambda i, names=data.filename: Record(Image.open(faces / names[i]), 0))
        for split, data in sets.items()
    }
    # Not of 202,599 files: the folder's time of change tells that one came or went.
    return Source(pools, NO_CLASSES, identity([root / "celeba" / "list_eval_partition.txt", faces]))
