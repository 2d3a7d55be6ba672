"""Diversity per prompt: the mean distance of images of one condition, over all replicates, with an interval."""

from dataclasses import replace
from itertools import combinations

import pytest
import torch

from dmd.samplers.sampler import Sampler
from evaluation.evaluator.evaluator import Evaluator
from evaluation.metrics import pairwise
from evaluation.metrics.pairwise import distances_within
from evaluation.metrics.schema import GeneratorMeasures
from tests.helpers.evaluators import random_features, toy_evaluator
from tests.helpers.networks import CPU


def slow_mean(x: torch.Tensor, conditions: list[int]) -> float:
    """The definition, pair by pair."""
    means = []
    for condition in sorted(set(conditions)):
        rows = [x[i].double() for i, c in enumerate(conditions) if c == condition]
        pairs = [(a - b).norm().item() for a, b in combinations(rows, 2)]
        if pairs:
            means.append(sum(pairs) / len(pairs))
    return sum(means) / len(means)


def test_it_is_the_mean_over_conditions_of_the_mean_over_pairs() -> None:
    """Also without each group, and a condition with a single image does not count."""
    x, conditions = random_features(40, 5, 0), [i * i % 7 for i in range(39)] + [9]
    group = torch.arange(40) % 4
    whole, *parts = distances_within(x, torch.tensor(conditions), group)
    assert whole == pytest.approx(slow_mean(x, conditions))
    for g, part in enumerate(parts):
        left = [i for i in range(40) if i % 4 != g]
        assert part == pytest.approx(slow_mean(x[left], [conditions[i] for i in left]))


def test_of_many_images_of_a_condition_the_first_count(monkeypatch: pytest.MonkeyPatch) -> None:
    x, group = random_features(30, 4, 1), torch.arange(30) % 2
    monkeypatch.setattr(pairwise, "MOST_ALIKE", 12)
    whole, *_ = distances_within(x, torch.zeros(30, dtype=torch.int64), group)
    assert whole == pytest.approx(slow_mean(x[:12], [0] * 12))


def test_without_two_images_of_a_prompt_there_is_no_figure() -> None:
    assert distances_within(random_features(20, 4, 1), torch.arange(20), torch.arange(20) % 10) == []


def evaluated(
    spread: float = 0.2, conditional: bool = True, replicates: int = 2, prompts: int = 300
) -> GeneratorMeasures:
    """Measures of images of this spread by the toy evaluator; the 300 images of a replicate have so many prompts."""
    toy = toy_evaluator()
    reference = replace(toy.reference, labels=torch.arange(300) % prompts, replicates=replicates, class_names=[])
    reference = replace(reference, captions=[str(i % 64) for i in range(prompts)])
    generator = Sampler("toy", 1, (1, 8, 8), conditional, torch.device("cpu"), lambda z, cond: spread * z)
    return Evaluator(toy.extractors, reference).evaluate(generator, 5, 64)[0]


def test_images_of_one_prompt_may_be_in_different_replicates() -> None:
    measures = evaluated()
    for extractor, value in measures.values("prompt_diversity").items():
        interval = measures.interval.values("prompt_diversity")[extractor]
        assert 0 < interval.low < value < interval.high < 1.2 * value
    assert set(measures.values("prompt_diversity")) == {"evaluator", "classifier"}


def test_one_replicate_needs_prompts_with_two_images() -> None:
    assert evaluated(replicates=1).values("prompt_diversity") == {}
    assert evaluated(replicates=1, prompts=100).values("prompt_diversity")


def test_a_generator_that_ignores_its_prompts_has_no_diversity_per_prompt() -> None:
    assert evaluated(conditional=False).values("prompt_diversity") == {}


def test_a_generator_that_repeats_itself_has_less() -> None:
    values = [evaluated(spread).values("prompt_diversity")["classifier"] for spread in (0.2, 0.05)]
    assert 0 < values[1] < 0.5 * values[0]


def test_the_interval_does_not_depend_on_a_factor_that_prompts_and_groups_share() -> None:
    """The spreads of ten prompts differ, and each prompt would be one of ten groups if the groups were not random."""
    widths = []
    for prompts in (10, 11):
        toy = toy_evaluator()
        reference = replace(toy.reference, labels=torch.arange(300) % prompts, replicates=2, class_names=[])
        reference = replace(reference, captions=[str(i) for i in range(prompts)])
        generator = Sampler(
            "toy", 1, (1, 8, 8), True, CPU, lambda z, cond: (0.05 + 0.03 * cond)[:, None, None, None] * z
        )
        measures = Evaluator(toy.extractors, reference).evaluate(generator, 5, 64)[0]
        widths.append(measures.interval.values("prompt_diversity")["classifier"].half_width)
    assert widths[0] == pytest.approx(widths[1], rel=0.6)
