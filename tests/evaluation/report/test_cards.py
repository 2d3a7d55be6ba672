"""Cards say what a figure cannot tell."""

import pytest

from evaluation.metrics.schema import Nearest
from evaluation.report.cards import memory_card, ratio_card
from tests.helpers.reports import report_metrics


@pytest.mark.parametrize(("closer", "tone"), [(0.95, "bad"), (0.0, "even")])
def test_without_new_held_out_images_the_card_has_the_share_of_copies(closer: float, tone: str) -> None:
    metrics = report_metrics()
    metrics.student.nearest["evaluator"] = Nearest(median=0.9, held_out=0.0, closer=closer)
    card = memory_card(metrics)
    assert (card.value, card.tone) == ("none", tone) and f"{closer:.1%}".replace("%", " %") in card.text


def test_a_ratio_to_the_teachers_own_images_is_said_to_depend_on_their_number() -> None:
    metrics = report_metrics()
    assert "baseline.samples" not in ratio_card(metrics, "clip").text
    provenance = metrics.provenance.model_copy(update={"made_by": "ddim_50"})
    card = ratio_card(metrics.model_copy(update={"provenance": provenance}), "clip")
    assert "the ratio grows with baseline.samples" in card.text
