"""Feature extractors: networks that turn uint8 images [B, C, H, W] into features [B, D]."""

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from dmd.storage.finite import check_finite
from evaluation.models.classifier import load_classifier
from evaluation.models.clip import ClipExtractor, load_clip
from evaluation.models.names import CLASSIFIER, EVALUATOR


class Extractor(Protocol):
    """uint8 images [B, C, H, W] -> features [B, D], float32 on the CPU."""

    def __call__(self, images: Tensor) -> Tensor: ...


def load_extractors(folder: Path, device: torch.device) -> tuple[ClipExtractor, dict[str, Extractor]]:
    """Load the CLIP model, and every extractor by name, from the folder of the evaluator stage."""
    clip = load_clip(folder / "clip", device)
    return clip, {EVALUATOR: clip, CLASSIFIER: load_classifier(folder / "classifier", device)}


def extract(extractors: dict[str, Extractor], batches: Iterable[Tensor]) -> dict[str, Tensor]:
    """Features [N, D] per extractor of images in batches; only one batch of images is in memory at a time.

    Raises NumberError for features with NaN or infinite values.
    """
    parts: dict[str, list[Tensor]] = {name: [] for name in extractors}
    for images in batches:
        for name, extractor in extractors.items():
            features = extractor(images)
            check_finite(features, f"extractor {name}: its features", "replace its weights")
            parts[name].append(features)
    return {name: torch.cat(chunks) for name, chunks in parts.items()}
