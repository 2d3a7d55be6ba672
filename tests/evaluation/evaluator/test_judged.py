"""Judges of text to image have figures with intervals for every generator, each image beside its own caption."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from evaluation.evaluator.evaluator import Evaluator, replicate_seed
from evaluation.features.store import FeatureStore
from evaluation.judges.load import LoadedJudge
from evaluation.metrics.pairwise import group_of
from evaluation.metrics.schema import JudgeFacts
from evaluation.statistics.intervals import GROUPS, mean_interval
from tests.helpers.evaluators import sampler, toy_evaluator

FACTS = JudgeFacts(sha256="1" * 64, processor="2" * 64)
SEED = 5


def brightness(images: Tensor, captions: Sequence[str]) -> Tensor:
    """A score that depends on which caption each image has: the product of its mean and the caption's number."""
    numbers = torch.tensor([float(caption) for caption in captions])
    return (images.float().mean(dim=(1, 2, 3)) * numbers)[:, None]


def count(images: Tensor, captions: Sequence[str]) -> Tensor:
    """A judge that asks two questions on images of caption 3, and gets one right answer."""
    return torch.tensor([[1.0, 2.0] if caption == "3" else [0.0, 0.0] for caption in captions])


def with_judges(store: FeatureStore | None = None, replicates: int = 3, labels: Tensor | None = None) -> Evaluator:
    """The toy evaluator with two judges. labels: of the images, in place of the toy's own."""
    toy = toy_evaluator(store)
    judges = {"hps": LoadedJudge(brightness, FACTS), "vqa": LoadedJudge(count, FACTS)}
    reference = replace(toy.reference, replicates=replicates, labels=toy.reference.labels if labels is None else labels)
    return Evaluator(replace(toy.extractors, judges=judges), reference, store)


def expected(replicate: int, labels: Tensor | None = None) -> float:
    """The score of a replicate, image by image."""
    labels = toy_evaluator().reference.labels if labels is None else labels
    images = torch.cat(list(sampler().batches(labels, 50, replicate_seed(SEED, replicate))))
    return brightness(images, [str(label) for label in labels.tolist()]).mean().item()


def test_the_figure_is_the_mean_over_replicates_with_their_interval() -> None:
    values = [expected(r) for r in range(3)]
    for batch_size in (64, 300):
        measures, scores = with_judges().evaluate(sampler(), SEED, batch_size)
        assert [s.values("hps")[""] for s in scores] == pytest.approx(values, rel=1e-6)
        assert measures.values("hps")[""] == pytest.approx(sum(values) / 3, rel=1e-6)
        interval = measures.interval.values("hps")[""]
        assert (interval.low, interval.high) == pytest.approx(tuple(dict(mean_interval(values)).values()), rel=1e-3)
        assert measures.values("vqa") == {"": 0.5} and measures.values("pick_score") == {}


def test_a_single_replicate_has_the_interval_of_the_jackknife() -> None:
    """A share of questions that one group alone has is undefined without that group: it has no figure."""
    labels = group_of(len(toy_evaluator().reference.labels), GROUPS)  # the two questions are of one group's label
    measures, _ = with_judges(replicates=1, labels=labels).evaluate(sampler(), SEED, 64)
    interval = measures.interval.values("hps")[""]
    assert interval.low < measures.values("hps")[""] < interval.high
    assert measures.values("hps")[""] == pytest.approx(expected(0, labels), rel=1e-6)
    assert measures.values("vqa") == {} and measures.interval.values("vqa") == {}


def test_features_do_not_change_and_the_store_gives_the_same(tmp_path: Path) -> None:
    """An evaluation with a judge that was added later reads the stored images, whatever its batches."""
    identities = {"hps": FACTS.identity, "vqa": FACTS.identity}
    store = FeatureStore(tmp_path, identities)
    plain = toy_evaluator(store).evaluate(sampler(), SEED, 64, "source")[0]
    judged = [with_judges(store).evaluate(sampler(), SEED, 64, "source")[0] for _ in range(2)]
    assert judged[0] == judged[1] == with_judges().evaluate(sampler(), SEED, 64)[0]
    assert judged[0].values("fd") == plain.values("fd") and plain.values("hps") == {}


def test_real_images_are_judged_by_their_own_captions() -> None:
    labels = torch.arange(300) % 10
    images = torch.cat(list(sampler().batches(labels, 100, 78)))
    captions = [str(label) for label in labels.tolist()]
    split = SimpleNamespace(images=images, labels=labels, captions=captions, has_images=True)
    real = with_judges().evaluate_real(split, 70)  # type: ignore[arg-type]
    assert real.values("hps")[""] == pytest.approx(brightness(images, captions).mean().item(), rel=1e-6)
    prompts = SimpleNamespace(images=images[:0], labels=labels, captions=captions, has_images=False)
    assert with_judges().evaluate_real(prompts).values("hps") == {}  # type: ignore[arg-type]


def test_a_generator_without_conditions_is_not_judged() -> None:
    assert with_judges().evaluate(sampler(conditional=False), SEED, 64)[0].values("hps") == {}
