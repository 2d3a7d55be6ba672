"""Measures of real digits in place of generated images: two halves of one set, and sets with known defects."""

from pathlib import Path
from statistics import fmean

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dmd.config import Params
from dmd.data.splits import load_split
from dmd.storage.checkpoint import Scratch
from evaluation.metrics.comparison import Conditions
from evaluation.metrics.reference import Reference
from evaluation.metrics.schema import Scores
from evaluation.metrics.scores import compute_scores
from evaluation.models.classifier import Classifier, load_classifier, train_classifier
from evaluation.statistics.frechet import Gaussian, frechet_distance
from evaluation.statistics.intervals import ratio_interval
from tests.helpers.networks import CPU

HALF = 898  # of 1,797 digits
SPLITS = range(20)


@pytest.fixture(scope="module")
def digits(data_folder: Path) -> tuple[Tensor, Tensor]:
    """All images and their labels, in one fixed random order."""
    parts = [load_split(data_folder, name) for name in ("train", "validation", "test")]
    order = torch.randperm(1797, generator=torch.Generator().manual_seed(0))
    return torch.cat([p.images[:] for p in parts])[order], torch.cat([p.labels for p in parts])[order]


@pytest.fixture(scope="module")
def features(digits: tuple[Tensor, Tensor]) -> Tensor:
    """Sixteen leading principal components of the pixels: features without a trained network."""
    x = digits[0].flatten(1).double()
    vectors = torch.linalg.eigh(torch.cov(x.T)).eigenvectors
    return (x - x.mean(dim=0)) @ vectors[:, -16:] / 16


def distance(a: Tensor, b: Tensor) -> float:
    return frechet_distance(Gaussian.fit(a), Gaussian.fit(b))


def shuffled(features: Tensor, seed: int) -> Tensor:
    return features[torch.randperm(len(features), generator=torch.Generator().manual_seed(seed))]


def extrapolated(a: Tensor, b: Tensor) -> float:
    """Intercept of a line through the distances of halves and of quarters as a function of 1/N."""
    quarters = fmean(distance(x, y) for x, y in zip(a.split(HALF // 2), b.split(HALF // 2), strict=True))
    return 2 * distance(a, b) - quarters


def test_the_distance_of_two_halves_is_the_bias_of_their_size(features: Tensor) -> None:
    """The extrapolated distance is nearly 0 for one distribution, and unchanged for a true difference."""
    halves = [shuffled(features, seed)[: 2 * HALF].split(HALF) for seed in SPLITS]
    plain = fmean(distance(a, b) for a, b in halves)
    assert abs(fmean(extrapolated(a, b) for a, b in halves)) < 0.2 * plain
    shift = 2.0
    assert fmean(extrapolated(a + shift, b) for a, b in halves) == pytest.approx(16 * shift**2, rel=0.1)


def test_the_interval_of_the_ratio_contains_one_for_two_halves_but_not_for_a_poorer_set(features: Tensor) -> None:
    """For two sets of one distribution, the interval contains 1 in about 19 of 20 splits."""
    equal, detected = 0, 0
    for seed in SPLITS:
        reference, a, b = shuffled(features, seed)[:1797].split([597, 600, 600])
        replicates = [[distance(part, reference) for part in side.split(150)] for side in (a, b)]
        interval = ratio_interval(*replicates)
        equal += interval.low <= 1 <= interval.high
        noise = torch.randn(15, 16, generator=torch.Generator().manual_seed(seed)).double() * 30
        poorer = [distance(torch.cat([part[:135], noise]), reference) for part in a.split(150)]
        detected += ratio_interval(poorer, replicates[1]).low > 1
    assert equal >= 17 and detected == len(SPLITS)


class Halves:
    """One half of the digits is the reference; the other half stands for a faithful generator."""

    def __init__(self, net: Classifier, images: Tensor, labels: Tensor) -> None:
        self.net, (self.real, self.other) = net, images[: 2 * HALF].split(HALF)
        self.real_labels, self.labels = labels[: 2 * HALF].split(HALF)
        real, other = ({k: net(x) for k in ("evaluator", "classifier")} for x in (self.real, self.other))
        names = [str(i) for i in range(10)]
        self.reference = Reference(
            ["train"], real, other, self.real_labels, self.labels, torch.arange(HALF), torch.arange(HALF), names, names,
            replicates=2, neighbours=3, picture_labels=self.labels[:1], picture_seed=0,
        )  # fmt: skip

    def score(self, images: Tensor, labels: Tensor) -> Scores:
        features = self.net(images)
        conditions = Conditions(labels, features, lambda f: self.net.head(F.silu(f)).argmax(dim=1))
        with torch.inference_mode():
            return compute_scores({"evaluator": features, "classifier": features}, conditions, self.reference)[0]


@pytest.fixture(scope="module")
def halves(
    params: Params, data_folder: Path, digits: tuple[Tensor, Tensor], tmp_path_factory: pytest.TempPathFactory
) -> Halves:
    """The halves with features of the project's classifier after a short training."""
    folder = tmp_path_factory.mktemp("evaluator") / "classifier"
    cfg = params.evaluator.model_copy(update={"classifier_steps": 100, "classifier_width": 16})
    train, held_out = (load_split(data_folder, name) for name in ("train", "test"))
    assert train_classifier(cfg, train, held_out, folder, CPU, Scratch.at(folder.parent, "run", "code")) > 0.8
    return Halves(load_classifier(folder, CPU), *digits)


def test_copies_of_training_digits_are_detected(halves: Halves) -> None:
    """Copies have the best possible FD, but their distance to the nearest training image detects them."""
    copy, fair = (halves.score(*x) for x in ((halves.real, halves.real_labels), (halves.other, halves.labels)))
    assert copy.fd["classifier"] < 0.01 * fair.fd["classifier"]
    assert copy.nearest["classifier"].closer > 0.99 and copy.nearest["classifier"].median < 1e-3
    assert fair.nearest["classifier"].closer < 0.02
    assert fair.nearest["classifier"].median == pytest.approx(fair.nearest["classifier"].held_out)


def test_two_dropped_digits_reduce_recall_and_coverage(halves: Halves) -> None:
    """If other digits replace two classes, precision stays, and the measures of each class show which are missing."""
    fair = halves.score(halves.other, halves.labels)
    rest = halves.other[halves.labels >= 2]
    images = torch.where((halves.labels >= 2)[:, None, None, None], halves.other, rest[torch.arange(HALF) % len(rest)])
    poorer = halves.score(images, halves.labels)
    assert poorer.precision["classifier"] == pytest.approx(fair.precision["classifier"], abs=0.03)
    assert poorer.recall["classifier"] < fair.recall["classifier"] - 0.1
    assert poorer.coverage["classifier"] < fair.coverage["classifier"] - 0.1
    for name, row in poorer.classes.items():
        assert (row.coverage < 0.4) == (name in "01") == (row.accuracy < 0.4), (name, row)


def test_a_tenth_of_noise_reduces_precision(halves: Halves) -> None:
    fair = halves.score(halves.other, halves.labels)
    rng = torch.Generator().manual_seed(1)
    noise = torch.randint(256, (HALF // 10, *halves.other.shape[1:]), generator=rng, dtype=torch.uint8)
    noisy = halves.score(torch.cat([halves.other[: -len(noise)], noise]), halves.labels)
    assert noisy.precision["classifier"] == pytest.approx(0.9 * fair.precision["classifier"], abs=0.03)
    assert noisy.recall["classifier"] > 0.95 * fair.recall["classifier"]
    assert noisy.coverage["classifier"] > 0.9 * fair.coverage["classifier"]
