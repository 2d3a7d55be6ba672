"""CelebA by torchvision: 202,599 aligned faces in splits of their own, without classes."""

from typing import Any

from dmd.config import DataConfig
from dmd.preparation.pictures import open_picture
from dmd.preparation.sources.arrays import data_root, load_dataset
from dmd.preparation.sources.base import NO_CLASSES, LazyPool, Pool, Record, Source, hash_files

SPLITS = {"train": "train", "validation": "valid", "test": "test"}  # torchvision's names


def celeba(cfg: DataConfig) -> Source:
    """List CelebA. Its files lie in celeba/ of data.folder, as torchvision lays them out; a download needs gdown."""
    from torchvision.datasets import CelebA

    root, download = data_root(cfg)
    sets: dict[str, Any] = {
        split: load_dataset(cfg, lambda n=name: CelebA(str(root), n, target_type=[], download=download))
        for split, name in SPLITS.items()
    }
    faces = root / "celeba" / "img_align_celeba"
    pools: dict[str, Pool] = {
        split: LazyPool(data.filename, lambda i, n=data.filename: Record(open_picture(faces / n[i], cfg.max_pixels), 0))
        for split, data in sets.items()
    }
    # One modification time stands for 202,599 files: the folder's changes when a file is added or removed.
    return Source(pools, NO_CLASSES, hash_files([root / "celeba" / "list_eval_partition.txt", faces]))
