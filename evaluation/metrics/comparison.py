"""The arguments of measures: generated features beside the reference's, and images beside their conditions."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from statistics import fmean

import torch
from torch import Tensor

from evaluation.metrics.pairwise import CrossPairs, shuffle
from evaluation.metrics.reference import Reference
from evaluation.statistics.frechet import Gaussian, frechet_distance

MATCHED_SETS = 4  # largest number of sets of few images whose distances are averaged


@dataclass(frozen=True)
class FeatureComparison:
    """Features x [M, D] of generated images by one extractor, and the reference's features y by the same extractor.

    kept: bool [N], which images of a replicate of N these are; None if they are all.
    """

    extractor: str
    features: Tensor
    pairs: CrossPairs
    reference: Reference
    kept: Tensor | None = None

    @cached_property
    def gaussian(self) -> Gaussian:
        """Gaussian of the generated features."""
        return Gaussian.fit(self.features)

    def frechet_distance(self, references: dict[str, Gaussian]) -> float:
        """Fréchet distance to this extractor's Gaussian."""
        return frechet_distance(self.gaussian, references[self.extractor])

    def matched_distance(self) -> float:
        """Fréchet distance to the reference of sets of as many images as are held out, or as are generated if fewer.

        It is the mean over disjoint sets. A distance depends on the number of images, so that only sets of one size
        compare generated images with held-out ones. The sets are those of all images of the replicate, so that the
        jackknife leaves a group out of the same sets, and an equal part out of each.
        """
        reference = self.reference
        kept = torch.ones(len(self.features), dtype=torch.bool) if self.kept is None else self.kept
        size = min(len(kept), len(reference.labels), len(reference.held_out[self.extractor]))
        count = min(MATCHED_SETS, len(kept) // size)
        # The order of the images may follow their classes, so that the sets are random.
        parts = shuffle(len(kept))[: count * size].split(size)
        place = kept.cumsum(0) - 1  # of each image among those that are kept
        # One image has no covariance: of sets of two images, those that have lost one do not count.
        sets = [rows for part in parts if len(rows := place[part[kept[part]]]) > 1] or [place[kept]]
        gaussians = [Gaussian.fit(self.features[rows]) for rows in sets]
        return fmean(frechet_distance(g, reference.gaussians[self.extractor]) for g in gaussians)


@dataclass(frozen=True)
class Conditions:
    """Labels and captions that the images of a replicate were generated for."""

    labels: Tensor  # [N]
    caption_embeds: Tensor  # [N, D]
    classify: Callable[[Tensor], Tensor]  # the classifier's features [N, F] -> predicted labels [N]


@dataclass(frozen=True)
class ConditionedImages:
    """Generated images, or a part of them, beside their conditions."""

    image_embeds: Tensor  # [M, D] by the evaluator
    caption_embeds: Tensor  # [M, D]
    labels: Tensor  # [M]
    predictions: Tensor | None  # [M], the classifier's labels; None without classes
    judgements: dict[str, Tensor] = field(default_factory=dict)  # by judge, [M, K]: see evaluation/judges/base.py
