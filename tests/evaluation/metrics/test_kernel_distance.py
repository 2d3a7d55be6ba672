"""KID of equal distributions is zero on average, although generated images have the labels of the reference."""

import math
from pathlib import Path
from statistics import fmean, stdev

import pytest
import torch
from torch import Tensor

from dmd.config import Params
from evaluation.evaluator.evaluator import replicate_seed
from evaluation.evaluator.reference import EvaluationData, build_reference
from evaluation.metrics.pairwise import group_of, pairs_between, pairs_within
from evaluation.metrics.scores import compute_scores
from evaluation.models.extractors import extract
from tests.helpers.evaluators import sampler, toy_evaluator

REPETITIONS, CLASSES, REAL, GENERATED = 200, 4, 30, 50


def draw(labels: Tensor, rng: torch.Generator) -> Tensor:
    """Images of labels [N] as features [N, 3]; the classes lie apart."""
    return torch.randn(len(labels), 3, generator=rng) + 2 * labels[:, None]


def mean_and_error(values: list[float]) -> tuple[float, float]:
    return fmean(values), stdev(values) / math.sqrt(len(values))


@pytest.mark.parametrize("conditions", [CLASSES, 1000])
def test_kid_of_two_sets_of_one_distribution_is_zero_on_average(conditions: int) -> None:
    """1,000 conditions stand for captions, of which almost every image has its own.

    The mean over all pairs, which takes the two sets for independent, is below zero by many standard errors.
    """
    rng = torch.Generator().manual_seed(0)
    paired, plain = [], []
    for _ in range(REPETITIONS):
        real_labels = torch.randint(conditions, (REAL,), generator=rng) * CLASSES / conditions
        sources = torch.arange(GENERATED) % REAL
        x, y = draw(real_labels[sources], rng), draw(real_labels, rng)
        within = pairs_within(y, 3)
        both = sources, torch.arange(REAL)
        paired.append(pairs_between(x, y, within, 3, sources=both)[0][0].squared_mmd("cubic"))
        plain.append(pairs_between(x, y, within, 3)[0][0].squared_mmd("cubic"))
    mean, error = mean_and_error(paired)
    assert abs(mean) < 2 * error
    mean, error = mean_and_error(plain)
    assert mean < -5 * error


def test_kid_without_a_group_leaves_out_the_pairs_of_one_source() -> None:
    """Each part equals the mean over its own pairs, and the sums over groups do not change the whole."""
    rng = torch.Generator().manual_seed(1)
    sources, real_sources = torch.arange(50) % 30, torch.arange(30)
    x, y = (torch.randn(n, 3, generator=rng, dtype=torch.float64) for n in (50, 30))

    def mean(a: Tensor, b: Tensor, of_a: Tensor, of_b: Tensor) -> float:
        independent = of_a[:, None] != of_b
        return ((a @ b.T / 3 + 1) ** 3)[independent].mean().item()

    parts, _ = pairs_between(x, y, pairs_within(y, 3), 3, 4, (sources, real_sources))
    for part, pairs in enumerate(parts):
        rows = group_of(50, 4) != part - 1
        a, of_a = x[rows], sources[rows]
        expected = mean(a, a, of_a, of_a) + mean(y, y, real_sources, real_sources)
        expected -= 2 * mean(a, y, of_a, real_sources)
        assert pairs.squared_mmd("cubic") == pytest.approx(expected, rel=1e-9)


def test_the_evaluator_gives_each_image_its_source() -> None:
    evaluator = toy_evaluator()
    _, scores = evaluator.evaluate(sampler(), 5, 64)
    reference = evaluator.reference
    x = extract(evaluator.extractors.networks, sampler().batches(reference.labels, 64, replicate_seed(5, 0)))
    paired, plain = (compute_scores(x, None, reference, sources=s)[0].kid for s in (reference.sources, None))
    assert scores[0].kid == paired != plain


@pytest.mark.parametrize("reference", ["train", "train_and_validation"])
def test_a_source_is_the_training_image_whose_label_is_used(params: Params, data_folder: Path, reference: str) -> None:
    cfg = params.baseline.model_copy(update={"reference": reference, "samples": 2000})
    data = EvaluationData.load(data_folder, reference)
    built = build_reference(cfg, data, {"mean": lambda images: images.float().mean(dim=(2, 3))})
    assert torch.equal(built.labels, data.train.labels[built.sources])
    assert built.sources.unique().numel() == len(data.train.labels)
    of_source = {int(s): i for i, s in enumerate(built.real_sources)}
    index = torch.tensor([of_source[s] for s in built.sources.tolist()])
    assert torch.equal(built.labels, built.real_labels[index])
    assert len(of_source) == len(built.real_labels) == len(built.features["mean"])
