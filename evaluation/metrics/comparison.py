"""The arguments of measures: generated features beside the reference's, and images beside their conditions."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from evaluation.metrics.pairwise import CrossPairs
from evaluation.metrics.reference import Reference
from evaluation.statistics.frechet import Gaussian, frechet_distance


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
