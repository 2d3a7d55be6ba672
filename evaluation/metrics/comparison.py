"""The arguments of measures: generated features beside the reference's, and images beside their conditions."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from statistics import fmean

import torch
from torch import Tensor

from evaluation.metrics.pairwise import CrossPairs
from evaluation.metrics.reference import Reference
from evaluation.statistics.frechet import Gaussian, frechet_distance

MATCHED_SETS = 4  # largest number of sets of few images whose distances are averaged


@dataclass(frozen=True)
class FeatureComparison:
    """Features x [M, D] of generated images by one extractor, and the reference's features y by the same extractor."""

    extractor: str
    features: Tensor
    pairs: CrossPairs
    reference: Reference

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
        compare generated images with held-out ones.
        """
        reference, x = self.reference, self.features
        size = min(len(x), len(reference.labels), len(reference.held_out[self.extractor]))
        sets = min(MATCHED_SETS, len(x) // size)
        # The order of the images may follow their classes, so that the sets are random.
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
        gaussians = [Gaussian.fit(x[rows]) for rows in order[: sets * size].split(size)]
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
