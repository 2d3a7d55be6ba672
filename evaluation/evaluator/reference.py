"""Build the reference of a run: features of real and of test images, and the labels that samplers get."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dmd.config import BaselineConfig
from dmd.data.splits import Split, load_split, load_splits, split_sha256
from dmd.errors import DataError
from dmd.progress import Progress
from dmd.samplers.sampler import Sampler
from dmd.training.shared_work import ALONE, SharedWork
from evaluation.features.store import FeatureStore
from evaluation.metrics.reference import Reference
from evaluation.models.extractors import Extractor, extract
from evaluation.statistics.noise import noise_of

REAL_SPLITS = {"train": ["train"], "train_and_validation": ["train", "validation"]}  # names by baseline.reference
MAX_ROWS = 100  # conditions in a picture: enough for all classes, but there may be thousands of captions
MAX_PIXELS = 2**23  # pixels of a picture's cells in one panel; the page holds several panels as a PNG


@dataclass(frozen=True)
class EvaluationData:
    """Splits that an evaluation reads, and the hashes of the real and of the test split."""

    train: Split
    real: Split  # the images of the reference
    test: Split  # held out
    real_sha256: str
    test_sha256: str

    @classmethod
    def load(cls, folder: Path, reference: str, with_images: bool = False) -> "EvaluationData":
        """Load the splits of a data folder; reference: value of baseline.reference.

        Raises DataError if a split is unusable or, with `with_images`, if the data are prompts only.
        """
        names = REAL_SPLITS[reference]
        train, test = (load_split(folder, name, with_images) for name in ("train", "test"))
        real = load_splits(folder, names, with_images)
        return cls(train, real, test, split_sha256(folder, *names), split_sha256(folder, "test"))

    def check_neighbours(self, k: int) -> None:
        """Raise DataError if there are too few images for the k-th neighbour of one among the others."""
        for name, split in (("reference", self.real), ("test split", self.test)):
            if len(split.labels) <= k:
                raise DataError(
                    f"baseline.neighbours: {k} must be below the {len(split.labels)} images of the {name}; lower it"
                )

    def held_out_prompts(self, labels: Tensor) -> Split:
        """Prompts of the labels [N] in place of held-out images, for data without images."""
        captions = [self.train.conditions[label] for label in labels.tolist()]
        return Split(self.train.images, labels, captions, (), self.train.class_captions)


def build_reference(
    cfg: BaselineConfig,
    data: EvaluationData,
    extractors: dict[str, Extractor],
    substitute: Sampler | None = None,
    store: FeatureStore | None = None,
    device: str = "cpu",
    work: SharedWork = ALONE,
) -> Reference:
    """Extract the features of real and of test images, and choose labels in the proportions of the train split.

    substitute: the teacher's sampler that generates both sets, from different noise, if the data are prompts only.
    store: keeps the features of images on disk; the device is part of the key because features depend on its type.
    work: the processes that share the images.
    """
    if substitute is None:
        data.check_neighbours(cfg.neighbours)
    prompts = len(data.train.labels)
    sources = torch.arange(cfg.samples) % prompts if prompts > 1 else torch.arange(cfg.samples)
    labels = data.train.labels[sources % prompts]

    def features(name: str, split: Split, sha256: str) -> dict[str, Tensor]:
        if substitute is not None:
            noise = noise_of("reference", cfg.seed, name)
            return extract(extractors, substitute.batches(labels, cfg.batch_size, noise, work), work)
        batches = _read_batches(split, cfg.batch_size, f"{name} images, features", work)
        if store is None:
            return extract(extractors, batches, work)
        source: dict[str, Any] = {"split": sha256, "device": device, "threads": torch.get_num_threads()}
        return store.features(source, extractors, lambda: batches, keep_images=False, work=work)

    return Reference(
        splits=REAL_SPLITS[cfg.reference],
        features=features("real", data.real, data.real_sha256),
        held_out=features("test", data.test, data.test_sha256),
        real_labels=data.real.labels if substitute is None else labels,
        labels=labels,
        real_sources=torch.arange(len(data.real.labels)) if substitute is None else sources,
        sources=sources,
        class_names=list(data.train.class_names),
        captions=list(data.train.class_captions),
        replicates=cfg.draws,
        neighbours=cfg.neighbours,
        picture_labels=choose_picture_labels(len(data.train.conditions), cfg.pictures_per_class, data.train.shape),
        picture_seed=cfg.seed,
    )


def choose_picture_labels(conditions: int, per_condition: int, shape: tuple[int, int, int]) -> Tensor:
    """Labels [0, 0, ..., 1, 1, ...] of the pictures' cells, of images (C, H, W); the conditions are evenly selected.

    There are at most MAX_ROWS conditions, and fewer if their cells would have more than MAX_PIXELS.
    """
    rows = max(1, min(conditions, MAX_ROWS, MAX_PIXELS // (per_condition * shape[1] * shape[2])))
    return (torch.arange(rows) * conditions // rows).repeat_interleave(per_condition)


def _read_batches(split: Split, batch_size: int, name: str, work: SharedWork) -> Iterator[Tensor]:
    with Progress(name, len(split.labels), "images") as progress:
        for images in work.own(split.images.split(batch_size)):
            yield images
            progress.update(min(len(images) * work.processes, len(split.labels) - progress.done))
