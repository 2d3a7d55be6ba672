"""Scores of a set of images, of its parts, and of sets with known defects."""

from dataclasses import replace

import pytest
import torch

from evaluation.metrics.comparison import ConditionedImages, Conditions
from evaluation.metrics.measures import MEASURES, clip_score
from evaluation.metrics.pairwise import group_of
from evaluation.metrics.scores import compute_scores, jackknife_scores
from evaluation.statistics.intervals import GROUPS, jackknife
from tests.helpers.evaluators import toy_evaluator


def test_clip_score_is_a_hundred_times_the_cosine() -> None:
    image = torch.tensor([[3.0, 0.0], [0.0, 2.0], [1.0, 0.0]])
    text = torch.tensor([[5.0, 0.0], [1.0, 1.0], [-1.0, 0.0]])
    assert clip_score(ConditionedImages(image, text, torch.zeros(3), None)) == pytest.approx(
        (100 + 100 / 2**0.5 + 0) / 3
    )


def test_copies_of_training_images_are_detected() -> None:
    """Copies of training images have distance 0; images of the same distribution have the held-out distance."""
    ref = toy_evaluator().reference
    features = ref.features["evaluator"], ref.held_out["evaluator"]
    copy, fair = (compute_scores({"evaluator": x}, None, ref)[0].nearest["evaluator"] for x in features)
    assert copy.closer > 0.9 and copy.median < 1e-6
    assert fair.closer <= 0.02 and fair.median == pytest.approx(fair.held_out)


@pytest.mark.parametrize("share", [0.03, 0.6, 1.0])
def test_copies_are_detected_beside_test_images_that_are_copies(share: float) -> None:
    """Their distance is zero up to rounding, so that no image would be nearer than the nearest of them."""
    toy = toy_evaluator().reference
    count = round(300 * share)
    held_out = {k: torch.cat([toy.features[k][:count], v[count:]]) for k, v in toy.held_out.items()}
    ref = replace(toy, held_out=held_out)
    features = toy.features["evaluator"], toy.held_out["evaluator"]
    copy, fair = (compute_scores({"evaluator": x}, None, ref)[0].nearest["evaluator"] for x in features)
    assert copy.closer > 0.9 and fair.closer <= 0.03
    assert copy.held_out == (0 if share == 1 else pytest.approx(fair.median, rel=0.1))


def test_dropped_classes_and_noise_change_the_right_measures() -> None:
    """Recall, coverage and the measures of each class show two missing classes; precision shows a tenth of noise."""
    evaluator = toy_evaluator()
    labels = evaluator.reference.labels
    whole = evaluator.reference.held_out
    conditions = Conditions(labels, torch.eye(64)[labels], lambda f: labels)
    fair = compute_scores(whole, conditions, evaluator.reference)[0]
    dropped = {k: v[torch.where(labels < 2, torch.arange(300) + 2, torch.arange(300))] for k, v in whole.items()}
    poorer = compute_scores(dropped, conditions, evaluator.reference)[0]
    noisy = {k: torch.cat([v[:270], v[:30] + 100 * torch.randn(30, v.shape[1])]) for k, v in whole.items()}
    noise = compute_scores(noisy, conditions, evaluator.reference)[0]
    for k in whole:
        assert poorer.recall[k] < fair.recall[k] - 0.1 and poorer.coverage[k] < fair.coverage[k] - 0.1
        assert noise.precision[k] == pytest.approx(0.9 * fair.precision[k], abs=0.03)
        assert noise.coverage[k] > 0.8 * fair.coverage[k]
    assert poorer.classes["0"].coverage < 0.2 < poorer.classes["5"].coverage


def test_scores_without_a_group_are_those_of_the_remaining_images() -> None:
    """Each measure from the single pass over all pairs equals its value from a pass over the remaining rows."""
    reference = toy_evaluator().reference
    # More than one chunk of rows, in groups of different sizes.
    x = {k: v[:290] for k, v in reference.held_out.items()}
    conditions = Conditions(reference.labels[:290], torch.randn(290, 64), lambda f: reference.labels[: len(f)])
    whole, *parts = compute_scores(x, conditions, reference, groups=4)
    apart = compute_scores(x, conditions, reference)[0]
    # Groups change the order in which the kernel is summed, so KID is equal up to rounding.
    assert whole.kid == pytest.approx(apart.kid, rel=1e-9)
    assert whole == apart.model_copy(update={"kid": whole.kid})
    masks = [group_of(290, 4) != g for g in range(4)]
    for part, mask in zip(parts, masks, strict=True):
        labels, captions = conditions.labels[mask], conditions.caption_embeds[mask]
        left = Conditions(labels, captions, lambda f, labels=labels: labels)
        expected = compute_scores({k: v[mask] for k, v in x.items()}, left, reference)[0]
        for name in ("fd", "fd_held_out", "kid", "precision", "recall", "density", "coverage"):
            assert getattr(part, name) == pytest.approx(getattr(expected, name), rel=1e-9), name
            assert getattr(part, name) != getattr(whole, name) or name in ("precision", "recall"), name
        assert (part.clip_score, part.accuracy) == (pytest.approx(expected.clip_score), expected.accuracy)


def test_the_jackknife_replaces_every_measure_that_has_an_interval() -> None:
    evaluator = toy_evaluator()
    x, labels = evaluator.reference.held_out, evaluator.reference.labels
    conditions = Conditions(labels, torch.eye(64)[labels], lambda f: labels)
    parts = compute_scores(x, conditions, evaluator.reference, groups=GROUPS)
    scores = jackknife_scores(parts)
    assert len(scores) == GROUPS and all((s.nearest, s.classes) == (parts[0].nearest, parts[0].classes) for s in scores)
    for name in (m.name for m in MEASURES.values() if m.per_replicate):
        for k, whole in parts[0].values(name).items():
            values = jackknife(whole, [part.values(name)[k] for part in parts[1:]])
            assert [s.values(name)[k] for s in scores] == values, name
