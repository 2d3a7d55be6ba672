"""The measures of one set of images by its features, and their mean over several sets."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from evaluation.evaluator.reference import CLASSIFIER, EVALUATOR, Reference
from evaluation.metrics.pairwise import compare, kept_rows, mean_pairwise, within
from evaluation.metrics.schema import ClassMeasures, Intervals, Measures, Nearest, Scores
from evaluation.statistics.frechet import Gaussian, extrapolate_frechet, frechet_distance
from evaluation.statistics.intervals import Interval, jackknife, mean_interval

R = TypeVar("R", Nearest, ClassMeasures)
BY_PAIRS = ("kid", "precision", "recall", "density", "coverage")
CLOSE = 0.01  # quantile of held-out images' distances below which a generated image is suspiciously near


@dataclass(frozen=True)
class Conditions:
    """What the images of a set were asked to show."""

    labels: Tensor  # [N]
    captions: Tensor  # [N, D], the captions' embeddings
    classify: Callable[[Tensor], Tensor]  # the classifier's features [N, F] -> its label [N]


def clip_score(image_embeds: Tensor, text_embeds: Tensor) -> float:
    """100 x cosine, no less than 0 (Hessel et al. 2021, with torchmetrics' weight), mean over pairs [N, D]."""
    return (100 * F.cosine_similarity(image_embeds.double(), text_embeds.double())).clamp_min(0).mean().item()


def scores(features: dict[str, Tensor], conditions: Conditions | None, ref: Reference, groups: int = 0) -> list[Scores]:
    """One set of images judged by its features per extractor; conditions are None for a generator without them.

    The first is of all images. With groups, the others are without each of them (image i is of group i modulo their
    number); what is by class and by nearest image is then that of all.
    """
    compared = {k: compare(v, ref.features[k], ref.within[k], ref.neighbours, groups) for k, v in features.items()}
    near = {k: nearness(distances, ref, k) for k, (_, distances) in compared.items()}
    labelled = conditions if ref.class_names else None  # captions alone are no classes
    taken_for = None if labelled is None else labelled.classify(features[CLASSIFIER])
    classes = (
        {} if labelled is None or taken_for is None else by_class(features[CLASSIFIER], labelled.labels, taken_for, ref)
    )
    found = []
    for part, mine in enumerate(kept_rows(len(next(iter(features.values()))), groups)):
        pairs = {k: both[0][part] for k, both in compared.items()}
        gaussians = {k: Gaussian.fit(v[mine]) for k, v in features.items()}
        found.append(
            Scores(
                fd={k: frechet_distance(g, ref.gaussians[k]) for k, g in gaussians.items()},
                fd_held_out={k: frechet_distance(g, ref.held_out_gaussians[k]) for k, g in gaussians.items()},
                **{name: {k: getattr(p, name) for k, p in pairs.items()} for name in BY_PAIRS},
                nearest=near,
                clip_score=None
                if conditions is None
                else clip_score(features[EVALUATOR][mine], conditions.captions[mine]),
                accuracy=None
                if labelled is None or taken_for is None
                else (taken_for == labelled.labels)[mine].double().mean().item(),
                classes=classes,
            )
        )
    return found


def nearness(distances: Tensor, ref: Reference, extractor: str) -> Nearest:
    """Distances [N] to the nearest train image, against those of held-out images."""
    held_out = ref.held_out_distances[extractor]
    return Nearest(
        median=distances.median().item(),
        held_out=held_out.median().item(),
        closer=(distances < held_out.quantile(CLOSE)).double().mean().item(),
    )


def by_class(features: Tensor, labels: Tensor, taken_for: Tensor, ref: Reference) -> dict[str, ClassMeasures]:
    """Each class by the classifier's features; a class of which too few images were asked for is left out."""
    found = {}
    for i, name in enumerate(ref.class_names):
        mine, real = features[labels == i], ref.features[CLASSIFIER][ref.real_labels == i]
        if min(len(mine), len(real)) <= ref.neighbours:
            continue
        spread = mean_pairwise(real)
        found[name] = ClassMeasures(
            accuracy=(taken_for[labels == i] == i).double().mean().item(),
            coverage=compare(mine, real, within(real, ref.neighbours), ref.neighbours)[0][0].coverage,
            diversity=mean_pairwise(mine) / spread if spread > 0 else 0.0,
        )
    return found


def summarise(draws: list[Scores], features: list[dict[str, Tensor]], ref: Reference, nfe: int, seed: int) -> Measures:
    """The mean over draws with its 95 % interval; features are those of each draw, for what needs all of them."""

    def mean(name: str) -> dict[str, float]:
        return {k: statistics.fmean(getattr(d, name)[k] for d in draws) for k in draws[0].fd}

    def interval(name: str) -> dict[str, Interval]:
        return {k: mean_interval([getattr(d, name)[k] for d in draws]) for k in draws[0].fd}

    measures = ("fd", "fd_held_out", *BY_PAIRS)
    scores, accuracies = ([getattr(d, name) for d in draws] for name in ("clip_score", "accuracy"))
    conditional, labelled = None not in scores, None not in accuracies
    return Measures(
        nfe=nfe,
        **{name: mean(name) for name in measures},
        fd_infinity={
            k: extrapolate_frechet(torch.cat([f[k] for f in features]), ref.gaussians[k], seed) for k in draws[0].fd
        },
        nearest={k: _mean_of(Nearest, [d.nearest[k] for d in draws]) for k in draws[0].fd},
        clip_score=statistics.fmean(scores) if conditional else None,
        accuracy=statistics.fmean(accuracies) if labelled else None,
        classes={c: _mean_of(ClassMeasures, [d.classes[c] for d in draws]) for c in draws[0].classes},
        samples=len(ref.labels),
        draws=ref.draws,
        seed=seed,
        interval=Intervals(
            **{name: interval(name) for name in measures},
            clip_score=mean_interval(scores) if conditional else None,
            accuracy=mean_interval(accuracies) if labelled else None,
        ),
    )


def _mean_of(kind: type[R], records: Sequence[R]) -> R:
    return kind(**{f: statistics.fmean(getattr(r, f) for r in records) for f in kind.model_fields})


def jackknife_scores(scores: list[Scores]) -> list[Scores]:
    """Scores that take the place of replicates, from those of all images and of all images without each group.

    Measures of classes and of the nearest images have no interval; they keep the value of all images.
    """
    whole, *parts = scores
    replaced: list[dict[str, Any]] = [{} for _ in parts]
    for name in Scores.model_fields:
        value = getattr(whole, name)
        if isinstance(value, float):
            for update, v in zip(replaced, jackknife(value, [getattr(p, name) for p in parts]), strict=True):
                update[name] = v
        elif value and all(isinstance(v, float) for v in value.values()):
            values = {k: jackknife(v, [getattr(p, name)[k] for p in parts]) for k, v in value.items()}
            for g, update in enumerate(replaced):
                update[name] = {k: v[g] for k, v in values.items()}
    return [whole.model_copy(update=update) for update in replaced]
