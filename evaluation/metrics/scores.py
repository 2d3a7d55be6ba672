"""Compute the measures of a replicate, and summarise several replicates."""

import statistics
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

from evaluation.metrics.comparison import ConditionedImages, Conditions, FeatureComparison
from evaluation.metrics.measures import (
    MEASURES,
    ConditionMeasure,
    FeatureMeasure,
    Measure,
    PooledMeasure,
    SpreadMeasure,
    coverage,
)
from evaluation.metrics.pairwise import (
    CrossPairs,
    group_masks,
    group_of,
    mean_pairwise_distance,
    pairs_between,
    pairs_within,
)
from evaluation.metrics.reference import Reference
from evaluation.metrics.schema import ClassMeasures, GeneratorMeasures, Intervals, Nearest, Scores
from evaluation.models.names import CLASSIFIER, EVALUATOR
from evaluation.statistics.intervals import GROUPS, Interval, jackknife, mean_interval

R = TypeVar("R", Nearest, ClassMeasures)
CLOSE_QUANTILE = 0.01  # quantile of the held-out images' distances; closer generated images are suspiciously near


def compute_scores(
    features: dict[str, Tensor],
    conditions: Conditions | None,
    reference: Reference,
    groups: int = 0,
    sources: Tensor | None = None,
    judgements: dict[str, Tensor] | None = None,
) -> list[Scores]:
    """Scores of one set of images from its features [N, D] per extractor.

    conditions: None for an unconditional generator. sources: int64 [N], the sources of the images as the reference
    names them; None for images that are independent of the reference. Entry 0 is for all images. With groups, entry
    1 + g is for all images but those of group g (`group_of`), with the classes and nearest images of all images.
    judgements: [N, K] by judge, of images with conditions.
    """
    pairs: dict[str, list[CrossPairs]] = {}
    nearest: dict[str, Nearest] = {}
    for name, x in features.items():
        y, k = reference.features[name], reference.neighbours
        of_both = None if sources is None else (sources, reference.real_sources)
        pairs[name], distances = pairs_between(x, y, reference.pairs[name], k, groups, of_both)
        held_out, copy = reference.held_out_distances[name], reference.copy_distances[name]
        nearest[name] = measure_nearness(distances, held_out, copy)
    # Data without classes have no labels to predict, and with one class the classifier has learned nothing.
    has_labels = reference.class_names and CLASSIFIER in features
    predictions = conditions.classify(features[CLASSIFIER]) if conditions and has_labels else None
    classes = {}
    if conditions and predictions is not None:
        classes = measure_classes(features[CLASSIFIER], conditions.labels, predictions, reference)
    scores = []
    for part, mask in enumerate(group_masks(len(next(iter(features.values()))), groups)):
        comparisons = {k: FeatureComparison(k, v[mask], pairs[k][part], reference, mask) for k, v in features.items()}
        images = conditions and ConditionedImages(
            image_embeds=features[EVALUATOR][mask],
            caption_embeds=conditions.caption_embeds[mask],
            labels=conditions.labels[mask],
            predictions=None if predictions is None else predictions[mask],
            judgements={k: v[mask] for k, v in (judgements or {}).items()},
        )
        values = {m.name: _compute(m, comparisons, images) for m in MEASURES.values() if m.per_replicate}
        scores.append(Scores(nearest=nearest, classes=classes, **values))
    return scores


def _compute(
    measure: Measure, comparisons: dict[str, FeatureComparison], images: ConditionedImages | None
) -> dict[str, float] | float | None:
    match measure:
        case FeatureMeasure():
            return {k: measure.compute(comparison) for k, comparison in comparisons.items()}
        case ConditionMeasure():
            return None if images is None else measure.compute(images)
    raise TypeError(f"the measure {measure.name} cannot be computed from one replicate")


def measure_nearness(distances: Tensor, held_out: Tensor, copy: float) -> Nearest:
    """Compare distances [N] to the nearest training image with those of held-out images [M].

    copy: distance below which an image is a copy. Held-out images that are copies do not count: their distance of zero
    would be the quantile, and no generated image is nearer. Without any others, the copies are counted.
    """
    new = held_out[held_out > copy]
    return Nearest(
        median=distances.median().item(),
        held_out=new.median().item() if len(new) else 0.0,
        closer=(distances < (new.quantile(CLOSE_QUANTILE) if len(new) else copy)).double().mean().item(),
    )


def measure_classes(
    features: Tensor, labels: Tensor, predictions: Tensor, reference: Reference
) -> dict[str, ClassMeasures]:
    """Measures of each class by the classifier's features [N, F]; classes with too few images are left out."""
    classes, k = {}, reference.neighbours
    for i, name in enumerate(reference.class_names):
        x, y = features[labels == i], reference.features[CLASSIFIER][reference.real_labels == i]
        if min(len(x), len(y)) <= k:
            continue
        pairs = pairs_between(x, y, pairs_within(y, k), k)[0][0]
        spread = mean_pairwise_distance(y)
        classes[name] = ClassMeasures(
            accuracy=(predictions[labels == i] == i).double().mean().item(),
            coverage=coverage(FeatureComparison(CLASSIFIER, x, pairs, reference)),
            diversity=mean_pairwise_distance(x) / spread if spread > 0 else 0.0,
        )
    return classes


def jackknife_scores(scores: list[Scores]) -> list[Scores]:
    """Pseudo-values of a single replicate, from the scores of all images and of all images without each group.

    Measures of classes and of nearest images have no interval and keep the value for all images. A measure that is
    undefined without some group, such as a share of few questions, is undefined.
    """
    whole, *parts = scores
    updates: list[dict[str, dict[str, float] | float | None]] = [{} for _ in parts]
    for measure in MEASURES.values():
        if not measure.per_replicate:
            continue
        values = whole.values(measure.name)
        if any(part.values(measure.name).keys() != values.keys() for part in parts):
            values = {}
            for update in updates:
                update[measure.name] = {} if measure.per_extractor else None
        replicates = {k: jackknife(v, [part.values(measure.name)[k] for part in parts]) for k, v in values.items()}
        for group, update in enumerate(updates):
            if values:
                by_extractor = {k: v[group] for k, v in replicates.items()}
                update[measure.name] = by_extractor if measure.per_extractor else by_extractor[""]
    return [whole.model_copy(update=update) for update in updates]


def summarise(
    scores: list[Scores],
    features: list[dict[str, Tensor]],
    reference: Reference,
    nfe: int,
    seed: int,
    is_conditional: bool = True,
) -> GeneratorMeasures:
    """Mean of each measure over replicates with its 95 % interval; features: those of each replicate.

    is_conditional: whether the images depend on the reference's labels.
    """
    values, intervals = {}, {}
    for measure in MEASURES.values():
        name = measure.name
        if isinstance(measure, PooledMeasure):
            values[name] = {
                k: measure.compute(torch.cat([f[k] for f in features]), reference.gaussians[k], seed)
                for k in features[0]
            }
            continue
        if isinstance(measure, SpreadMeasure):
            values[name], intervals[name] = _spread(measure, features, reference) if is_conditional else ({}, {})
            continue
        replicates = {k: [s.values(name)[k] for s in scores] for k in scores[0].values(name)}
        means = {k: statistics.fmean(v) for k, v in replicates.items()}
        bounds = {k: mean_interval(v) for k, v in replicates.items()}
        values[name] = means if measure.per_extractor else means.get("")
        intervals[name] = bounds if measure.per_extractor else bounds.get("")
    first = scores[0]
    return GeneratorMeasures(
        nfe=nfe,
        nearest={k: _mean(Nearest, [s.nearest[k] for s in scores]) for k in first.nearest},
        classes={k: _mean(ClassMeasures, [s.classes[k] for s in scores]) for k in first.classes},
        samples=len(reference.labels),
        replicates=reference.replicates,
        seed=seed,
        interval=Intervals(**intervals),
        **values,
    )


def _spread(
    measure: SpreadMeasure, features: list[dict[str, Tensor]], reference: Reference
) -> tuple[dict[str, float], dict[str, Interval]]:
    """Value and interval of a measure by extractor; empty if no label has two images.

    The same position of all replicates has one label, and is in one group of the jackknife.
    """
    count = len(reference.labels)
    labels = reference.labels.repeat(len(features))
    group = group_of(count, min(GROUPS, count)).repeat(len(features))
    values, intervals = {}, {}
    for name in features[0]:
        if spread := measure.compute(torch.cat([f[name] for f in features]), labels, group):
            values[name], intervals[name] = spread[0], mean_interval(jackknife(spread[0], spread[1:]))
    return values, intervals


def _mean(kind: type[R], records: Sequence[R]) -> R:
    return kind(**{f: statistics.fmean(getattr(r, f) for r in records) for f in kind.model_fields})
