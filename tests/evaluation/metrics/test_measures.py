"""A measure that is added to the table appears everywhere, and nothing else has to change."""

import json
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from pydantic import ValidationError

from dmd.config import GateConfig
from evaluation.comparing.differences import find_differences, tabulate
from evaluation.comparing.page import render_comparison
from evaluation.metrics.comparison import FeatureComparison
from evaluation.metrics.measures import MEASURES, FeatureMeasure
from evaluation.metrics.schema import GeneratorMeasures, Metrics, parse_model, read_model, write_model
from evaluation.report.page import render_report
from evaluation.report.quality import quality_table
from evaluation.report.table import format_cells, format_table, summary_table
from flows.ablation.comparison import headline
from flows.registry.drift import find_exact_differences
from flows.registry.figures import list_metrics
from flows.registry.gate import Figures, advantage, check_gate
from tests.helpers.evaluators import candidate, sampler, toy_evaluator
from tests.helpers.reports import generator_measures, report_inputs, report_timing, run_metrics


def largest_feature(c: FeatureComparison) -> float:
    return c.features.abs().max().item()


TOY = FeatureMeasure(
    name="toy", label="toy norm", direction="lower", unit="feature units", compute=largest_feature,
    description="largest feature of an image", decimals=2, headline=True, shows_interval=True,
)  # fmt: skip


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Add a measure to the table."""
    monkeypatch.setitem(MEASURES, "toy", TOY)
    yield


@pytest.fixture
def metrics(toy: None) -> Metrics:
    """Metrics of a run with the measures of an actual evaluation."""
    student, scores = toy_evaluator().evaluate(sampler(), 5, 64)
    assert len({s.values("toy")["classifier"] for s in scores}) > 1
    return run_metrics(student, {"evaluator": 1.0, "classifier": 1.2})


def test_a_new_measure_is_computed_and_stored_in_metrics_json(metrics: Metrics, tmp_path: Path) -> None:
    value, interval = metrics.student.values("toy")["classifier"], metrics.student.interval.values("toy")["classifier"]
    assert 0 < interval.low < value < interval.high
    write_model(metrics, tmp_path / "metrics.json")
    assert json.loads((tmp_path / "metrics.json").read_text())["student"]["toy"]["classifier"] == value
    assert read_model(Metrics, tmp_path / "metrics.json") == metrics


def test_a_new_measure_is_a_column_of_the_tables_and_is_explained_on_the_page(metrics: Metrics) -> None:
    table, value = summary_table(metrics, report_timing()), metrics.student.values("toy")["classifier"]
    assert table.loc["student", "toy norm classifier"] == value
    half = metrics.student.interval.values("toy")["classifier"].half_width
    assert format_cells(table).loc["student", "toy norm classifier"] == f"{value:.2f} ± {half:.2f}"
    assert "toy" in format_table(table)
    html = render_report(report_inputs(metrics, report_timing()))
    assert "toy norm: largest feature of an image (feature units; lower is better)" in html
    assert '<th scope="row">toy norm ↓</th>' in html and "<th>toy norm ↓</th>" in html
    assert {"toy_classifier", "toy_classifier_low", "toy_classifier_high"} <= set(quality_table(metrics))


def test_generators_are_compared_by_a_new_measure(toy: None) -> None:
    pair = [candidate("first", 0.0), candidate("second", 0.5)]
    differences = find_differences(pair).set_index("measure")
    assert differences.loc["toy classifier", "verdict"] in ("better", "worse", "no significant difference")
    assert pd.notna(tabulate(pair).loc["second", "toy classifier"])
    assert "toy classifier" in render_comparison(pair, differences.reset_index(), "Data: toy.")


def test_the_gate_the_watch_the_ablation_and_mlflow_use_a_new_measure(metrics: Metrics) -> None:
    gate = GateConfig(measures=["toy"], margin=0.0, max_fd_ratio=2.0, min_recall_ratio=0.0)
    check_gate(gate)
    value = metrics.student.values("toy")["classifier"]
    ours, better = Figures.from_metrics(metrics), metrics.student.model_copy(update={"toy": {"classifier": value / 10}})
    theirs = Figures.from_metrics(metrics.model_copy(update={"student": better}))
    assert (advantage(theirs, ours, gate) or "").startswith("toy classifier") and advantage(ours, theirs, gate) is None
    assert len(find_exact_differences(better, metrics.student)) == 1
    assert headline(metrics)["toy.classifier"] == value
    numbers = list_metrics(metrics)
    assert numbers["student/toy.classifier"] == value and "student/interval.toy.classifier.low" in numbers


def test_a_measure_that_is_not_in_the_table_or_of_another_type_is_refused() -> None:
    given = json.loads(generator_measures({"a": 1.0}).model_dump_json())
    for wrong in ({"toy": {"a": 1.0}}, {"fd": 1.0}, {"accuracy": {"a": 1.0}}, {"fd": {"a": float("nan")}}):
        with pytest.raises(ValidationError):
            GeneratorMeasures.model_validate(given | wrong)


def test_a_file_from_before_a_measure_was_added_can_be_read_but_not_written(tmp_path: Path) -> None:
    given = json.loads(generator_measures({"a": 1.0}).model_dump_json())
    del given["recall"]
    earlier = parse_model(GeneratorMeasures, json.dumps(given), "x.json")
    assert earlier.values("recall") == {} and earlier.values("fd") == {"a": 1.0}
    with pytest.raises(ValueError, match="missing measures: recall"):
        write_model(earlier, tmp_path / "x.json")
    del given["fd"]
    with pytest.raises(ValueError, match=r"^x\.json: the whole file: .*missing measures: fd; .*dvc repro"):
        parse_model(GeneratorMeasures, json.dumps(given), "x.json")
