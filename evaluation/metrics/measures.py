"""The table of measures: how each one is computed, named, compared and printed.

To add a measure, write its function here and add its line to the table. A measure of another kernel also adds that
kernel to `KERNELS` in evaluation/metrics/pairwise.py. The schema of metrics.json, the summary table,
the report, quality.csv, the comparison, the gate and MLflow read the table, and name no measure on their own.

Programs that only read results import this module, so torch is imported inside the functions that need it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from evaluation.models.names import CLASSIFIER, EVALUATOR

if TYPE_CHECKING:
    from torch import Tensor

    from evaluation.metrics.comparison import ConditionedImages, FeatureComparison
    from evaluation.statistics.frechet import Gaussian

Direction = Literal["lower", "higher"]  # where better values lie


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One line of the table. Subclasses differ in the arguments of their `compute`."""

    per_extractor: ClassVar[bool] = True  # one value for each feature extractor
    per_replicate: ClassVar[bool] = True  # each replicate has a value of its own, and they give the interval
    has_interval: ClassVar[bool] = True

    name: str  # key in metrics.json
    label: str  # heading in tables
    direction: Direction
    unit: str
    description: str
    decimals: int = 3
    headline: bool = False  # a column of quality.csv and of the table for a terminal
    shows_interval: bool = False  # tables print half of its interval after the value
    for_real_images: bool = True  # also computed for held-out real images
    depends_on_count: bool = False  # on the number of images, also on average: other numbers cannot be compared
    floor: float | None = None  # true values are never below it; an estimate is by chance, and is not better for it
    judge: str = ""  # that computes a measure without extractors; its marks are those of the measure
    is_compared: bool = True  # by `evaluation.compare`, by the gate and by `flows.watch`

    @property
    def better(self) -> str:
        """Which values are better, in words."""
        return self.direction if self.floor is None else f"{self.direction}, down to {self.floor:g}"


@dataclass(frozen=True, kw_only=True)
class FeatureMeasure(Measure):
    """Measure of the features of one replicate, by one extractor."""

    compute: Callable[["FeatureComparison"], float]


@dataclass(frozen=True, kw_only=True)
class PooledMeasure(Measure):
    """Measure of the features [N, D] of all replicates together; `compute` also gets the seed of their noise."""

    per_replicate: ClassVar[bool] = False
    has_interval: ClassVar[bool] = False

    compute: Callable[["Tensor", "Gaussian", int], float]


@dataclass(frozen=True, kw_only=True)
class SpreadMeasure(Measure):
    """Measure of images with the same condition, from the features [N, D] of all replicates together.

    `compute` also gets the condition [N] and the jackknife's group [N] of each image. It returns the value of all
    images and the values without each group; an empty list if no condition has two images.
    """

    per_replicate: ClassVar[bool] = False

    compute: Callable[["Tensor", "Tensor", "Tensor"], list[float]]


@dataclass(frozen=True, kw_only=True)
class ConditionMeasure(Measure):
    """Measure of images against their labels and captions; None where it is undefined."""

    per_extractor: ClassVar[bool] = False

    compute: Callable[["ConditionedImages"], float | None]


def fd(c: "FeatureComparison") -> float:
    """Fréchet distance between the Gaussians of generated and of reference features."""
    return c.frechet_distance(c.reference.gaussians)


def fd_matched(c: "FeatureComparison") -> float:
    """Fréchet distance of as many images as are held out."""
    return c.matched_distance()


def fd_held_out(c: "FeatureComparison") -> float:
    """Fréchet distance between the Gaussians of generated and of held-out features."""
    return c.frechet_distance(c.reference.held_out_gaussians)


def fd_infinity(features: "Tensor", reference: "Gaussian", seed: int) -> float:
    """FD-infinity of Chong and Forsyth (2020)."""
    from evaluation.statistics.frechet import extrapolate_frechet

    return extrapolate_frechet(features, reference, seed)


def kid(c: "FeatureComparison") -> float:
    """Kernel distance (Bińkowski et al. 2018): the unbiased squared MMD with the cubic kernel, of independent pairs."""
    return c.pairs.squared_mmd("cubic")


def precision(c: "FeatureComparison") -> float:
    """Share of generated images inside the reference manifold (Kynkäänniemi et al. 2019)."""
    return c.pairs.is_inside_y.double().mean().item()


def recall(c: "FeatureComparison") -> float:
    """Share of reference images inside the generated manifold (Kynkäänniemi et al. 2019)."""
    return c.pairs.is_inside_x.double().mean().item()


def density(c: "FeatureComparison") -> float:
    """Number of reference balls around a generated image, over k (Naeem et al. 2020)."""
    return c.pairs.ball_count.mean().item() / c.reference.neighbours


def coverage(c: "FeatureComparison") -> float:
    """Share of reference balls that contain a generated image (Naeem et al. 2020)."""
    return c.pairs.is_covered.double().mean().item()


def prompt_diversity(features: "Tensor", conditions: "Tensor", groups: "Tensor") -> list[float]:
    """Mean distance of two images with the same condition, averaged over conditions."""
    from evaluation.metrics.pairwise import distances_within

    return distances_within(features, conditions, groups)


def clip_score(c: "ConditionedImages") -> float:
    """100 x cosine of image and caption embeddings, at least 0 (Hessel et al. 2021, with torchmetrics' weight)."""
    from torch.nn.functional import cosine_similarity

    cosine = cosine_similarity(c.image_embeds.double(), c.caption_embeds.double())
    return (100 * cosine).clamp_min(0).mean().item()


def pick_score(c: "ConditionedImages") -> float | None:
    """Mean PickScore (Kirstain et al. 2023)."""
    return _mean_score(c, "pick_score")


def hps(c: "ConditionedImages") -> float | None:
    """Mean score of HPS v2 (Wu et al. 2023), times 100."""
    return _mean_score(c, "hps")


def image_reward(c: "ConditionedImages") -> float | None:
    """Mean ImageReward (Xu et al. 2023)."""
    return _mean_score(c, "image_reward")


def _mean_score(c: "ConditionedImages", judge: str) -> float | None:
    """Mean over images; None without the judge."""
    return c.judgements[judge].double().mean().item() if judge in c.judgements else None


def vqa(c: "ConditionedImages") -> float | None:
    """Share of questions that are answered as the prompt says; None without the judge, or without questions."""
    if "vqa" not in c.judgements:
        return None
    right, questions = c.judgements["vqa"].double().sum(dim=0).tolist()
    return right / questions if questions else None


def accuracy(c: "ConditionedImages") -> float | None:
    """Share of images that the classifier assigns to their own class; None without classes."""
    return None if c.predictions is None else (c.predictions == c.labels).double().mean().item()


_LINES: tuple[Measure, ...] = (
    FeatureMeasure(
        name="fd", label="FD", direction="lower", unit="squared distance of features", compute=fd,
        description="Fréchet distance to the training images", headline=True, shows_interval=True,
        depends_on_count=True,
    ),
    FeatureMeasure(
        name="fd_matched", label="matched FD", direction="lower", unit="squared distance of features",
        description="FD of as many images as there are test images, which compares both", compute=fd_matched,
        is_compared=False,
    ),
    PooledMeasure(
        name="fd_infinity", label="FD\N{INFINITY}", direction="lower", unit="squared distance of features",
        description="FD of all replicates, extrapolated to infinitely many images", compute=fd_infinity,
        for_real_images=False, is_compared=False,
    ),
    FeatureMeasure(
        name="fd_held_out", label="test FD", direction="lower", unit="squared distance of features",
        description="Fréchet distance to the test images; few test images make it too large", compute=fd_held_out,
        for_real_images=False, is_compared=False,
    ),
    FeatureMeasure(
        name="kid", label="KID", direction="lower", unit="squared MMD", compute=kid,
        description="squared MMD with the cubic kernel, unbiased: 0 on average for equal distributions", decimals=4,
        shows_interval=True, for_real_images=False, floor=0.0,
    ),
    ConditionMeasure(
        name="clip_score", label="CLIP score", direction="higher", unit="100 x cosine", compute=clip_score,
        description="similarity of each image and its caption", headline=True, judge=EVALUATOR,
    ),
    ConditionMeasure(
        name="pick_score", label="PickScore", direction="higher", unit="scale x cosine", compute=pick_score,
        description="people's preference as a CLIP has learned it; about 20", shows_interval=True,
        judge="pick_score",
    ),
    ConditionMeasure(
        name="hps", label="HPS v2.1", direction="higher", unit="100 x cosine", compute=hps,
        description="people's preference as another CLIP has learned it; about 28", shows_interval=True,
        judge="hps",
    ),
    ConditionMeasure(
        name="image_reward", label="ImageReward", direction="higher", unit="standard deviations", compute=image_reward,
        description="people's preference as a BLIP has learned it; 0 is the mean of its own data", shows_interval=True,
        judge="image_reward",
    ),
    ConditionMeasure(
        name="vqa", label="VQA", direction="higher", unit="share of questions", compute=vqa,
        description="counts and colours that the prompt names and a BLIP finds in the image", shows_interval=True,
        judge="vqa",
    ),
    ConditionMeasure(
        name="accuracy", label="accuracy", direction="higher", unit="share of images", compute=accuracy,
        description="images that the classifier assigns to their own class", judge=CLASSIFIER,
    ),
    FeatureMeasure(
        name="precision", label="precision", direction="higher", unit="share of generated images", compute=precision,
        description="generated images in the neighbourhood of a training image", headline=True,
    ),
    FeatureMeasure(
        name="recall", label="recall", direction="higher", unit="share of training images", compute=recall,
        description="training images in the neighbourhood of a generated image", headline=True,
        depends_on_count=True,
    ),
    FeatureMeasure(
        name="density", label="density", direction="higher", unit="neighbourhoods per image / k", compute=density,
        description="neighbourhoods of training images around a generated image; above 1 if images cluster",
    ),
    FeatureMeasure(
        name="coverage", label="coverage", direction="higher", unit="share of training images", compute=coverage,
        description="training images with a generated image in their neighbourhood", depends_on_count=True,
    ),
    SpreadMeasure(
        name="prompt_diversity", label="diversity per prompt", direction="higher", unit="distance of features",
        description="mean distance of two images of the same prompt or class", compute=prompt_diversity,
        shows_interval=True, for_real_images=False, is_compared=False,
    ),
)  # fmt: skip

MEASURES: dict[str, Measure] = {measure.name: measure for measure in _LINES}


def list_compared() -> list[Measure]:
    """Measures by which one generator is compared with another."""
    return [measure for measure in MEASURES.values() if measure.is_compared]
