"""Feature extractors: networks that turn uint8 images [B, C, H, W] into features [B, D]."""

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from dmd.storage.finite import check_finite
from dmd.training.shared_work import ALONE, SharedWork
from evaluation.models.classifier import load_classifier
from evaluation.models.clip import ClipExtractor, load_clip
from evaluation.models.names import CLASSIFIER, EVALUATOR


class Extractor(Protocol):
    """uint8 images [B, C, H, W] -> features [B, D], float32 on the CPU."""

    def __call__(self, images: Tensor) -> Tensor: ...


def load_extractors(folder: Path, device: torch.device) -> tuple[ClipExtractor, dict[str, Extractor]]:
    """Load the CLIP model, and every extractor by name, from the folder of the evaluator stage.

    A classifier that has learned no classes is left out: its weights are random, so its distances rank nothing.
    """
    clip, classifier = load_clip(folder / "clip", device), load_classifier(folder / "classifier", device)
    networks: dict[str, Extractor] = {EVALUATOR: clip}
    return clip, networks | ({CLASSIFIER: classifier} if classifier.is_trained else {})


def extract(extractors: dict[str, Extractor], batches: Iterable[Tensor], work: SharedWork = ALONE) -> dict[str, Tensor]:
    """Features [N, D] per extractor of images in batches; only one batch of images is in memory at a time.

    work: the processes that share the batches; `batches` are then this process's own. Raises NumberError for features
    with NaN or infinite values.
    """
    parts: list[dict[str, Tensor]] = []
    for images in batches:
        parts.append({name: extractor(images) for name, extractor in extractors.items()})
        for name, features in parts[-1].items():
            check_finite(features, f"extractor {name}: its features", "replace its weights")
    parts = work.join_up(parts)
    return {name: torch.cat([part[name] for part in parts]) for name in extractors}
