"""The report shows judges of text to image with their intervals and marks, and names those without weights."""

import pandas as pd

from evaluation.metrics.files import split
from evaluation.metrics.measures import MEASURES
from evaluation.metrics.schema import JudgeFacts, Metrics
from evaluation.report.caption import describe_table
from evaluation.report.cards import clip_card
from evaluation.report.judges import measure_groups
from evaluation.report.page import render_report
from tests.helpers.reports import report_inputs, report_metrics

JUDGES = ("pick_score", "hps", "image_reward", "vqa")


def judged() -> Metrics:
    metrics = report_metrics()
    facts = dict.fromkeys(JUDGES[:3], JudgeFacts(sha256="1" * 64, processor="2" * 64))
    metrics.provenance.judges, metrics.provenance.skipped = facts, {"vqa": "folder does not exist"}
    metrics.ratio.seen = {"hps": "why"}
    return metrics


def test_a_judge_has_a_row_with_its_interval_and_its_mark() -> None:
    rows = dict(measure_groups(judged())[-1].rows)
    assert rows["PickScore ↑"] == ["0.500 ± 0.040", "0.500 ± 0.050", "0.900"]
    assert "HPS v2.1 ↑ (seen in training)" in rows


def test_clip_score_and_accuracy_have_the_marks_of_the_networks_that_compute_them() -> None:
    metrics = judged()
    metrics.ratio.selects, metrics.ratio.seen = ["evaluator", "classifier"], {"evaluator": "why"}
    rows = dict(measure_groups(metrics)[-1].rows)
    assert {"CLIP score ↑ (seen in training, selects)", "accuracy ↑ (selects)", "HPS v2.1 ↑"} <= set(rows)
    card = clip_card(metrics)
    assert card and card.text.endswith(
        " Seen in training: why. Selects: this extractor picks the generator while training."
    )


def test_every_measure_without_extractors_names_its_judge() -> None:
    assert {m.name: m.judge for m in MEASURES.values() if not m.per_extractor} == {
        "clip_score": "evaluator", "accuracy": "classifier", **{name: name for name in JUDGES},
    }  # fmt: skip
    assert {m.judge for m in MEASURES.values() if m.per_extractor} == {""}


def test_the_page_names_its_judges_and_those_without_weights() -> None:
    inputs = report_inputs(judged(), None)
    text = describe_table(inputs.subject, inputs.metrics, pd.DataFrame(), [])
    assert "Judges: clip, classifier, pick_score, hps (seen in training), image_reward." in text
    assert "Networks without weights on this machine: vqa (folder does not exist)." in render_report(inputs)


def test_a_judge_without_figures_has_no_row() -> None:
    metrics = judged()
    sides = {"student": metrics.student, **metrics.teachers}
    for measures in sides.values():
        measures.__pydantic_extra__["vqa"] = None
    assert "VQA ↑" not in dict(measure_groups(metrics)[-1].rows)
    page = render_report(report_inputs(metrics, None))
    assert MEASURES["vqa"].description not in page


def test_scores_of_judges_are_no_headline() -> None:
    """The headline has at most 60 figures, so that the judges are among the details."""
    head, rest = split(judged().model_dump())
    assert not set(head["student"]) & {*JUDGES, "prompt_diversity"}
    assert set(rest["student"]) >= {*JUDGES, "prompt_diversity"}
    assert set(rest["student"]["interval"]) >= {*JUDGES, "prompt_diversity"}
