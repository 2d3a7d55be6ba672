"""Compares two sets of images in memory, for scripts and notebooks."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from dmd.data.shards import Rows
from dmd.errors import DataError, EvaluatorError
from evaluation.metrics.comparison import FeatureComparison
from evaluation.metrics.measures import MEASURES, FeatureMeasure
from evaluation.metrics.pairwise import pairs_between
from evaluation.metrics.reference import Reference
from evaluation.models.extractors import extract, load_extractors

BATCH = 256  # images that pass through a network at once
NAMES = ("fd", "kid", "precision", "recall", "density", "coverage")  # the measures that need no held-out images


def judge(
    images: Tensor,
    reference: Tensor | Rows,
    evaluator: Path | str,
    names: Sequence[str] = (),
    device: torch.device | str = "cpu",
    neighbours: int = 3,
) -> dict[str, dict[str, float]]:
    """Measures of generated images against reference images: {measure: {extractor: value}}, as in metrics.json.

    images: uint8 [M, C, H, W]; reference: uint8 [N, C, H, W]. Images at the same position of both may be dependent,
    such as those of one label: KID leaves these pairs out. evaluator: folder of stage `evaluator`. names: extractors to
    use, `evaluator` or `classifier`; both by default. Without classes the classifier is not trained, and is left out.
    neighbours: k of precision, recall, density and coverage.

    FD is biased upward for few images, so compare it only between equal numbers. Raises DataError if there are too few
    images for the k-th neighbour, and EvaluatorError if the folder has no extractor of a name.
    """
    if min(len(images), len(reference)) <= neighbours + 1:
        raise DataError(
            f"{len(images)} and {len(reference)} images are too few for {neighbours} neighbours; use more images"
        )
    _, networks = load_extractors(Path(evaluator), torch.device(device))
    if unknown := [name for name in names if name not in networks]:
        raise EvaluatorError(f"{evaluator} has no extractor {unknown[0]}; use {' or '.join(networks)}")
    chosen = {name: networks[name] for name in names or networks}
    x, y = (extract(chosen, part.split(BATCH)) for part in (images, reference))
    result: dict[str, dict[str, float]] = {name: {} for name in NAMES}
    target = _reference(y, len(images), neighbours)
    for extractor, features in x.items():
        sources = target.sources, target.real_sources
        pairs = pairs_between(features, y[extractor], target.pairs[extractor], neighbours, sources=sources)[0][0]
        comparison = FeatureComparison(extractor, features, pairs, target)
        for name in NAMES:
            measure = MEASURES[name]
            assert isinstance(measure, FeatureMeasure)
            result[name][extractor] = measure.compute(comparison)
    return result


def _reference(features: dict[str, Tensor], images: int, neighbours: int) -> Reference:
    """A reference without labels and held-out images. features: [N, D] by extractor; images: number to be compared."""
    count, none = len(next(iter(features.values()))), torch.zeros(0, dtype=torch.int64)
    return Reference(
        splits=[],
        features=features,
        held_out={},
        real_labels=none,
        labels=torch.zeros(images, dtype=torch.int64),
        real_sources=torch.arange(count),
        sources=torch.arange(images),
        class_names=[],
        captions=[],
        replicates=1,
        neighbours=neighbours,
        picture_labels=none,
        picture_seed=0,
    )
