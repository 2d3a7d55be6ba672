"""Fixtures of the tests of the report: metrics, timing, inputs and the page."""

from typing import Any

import pytest

from evaluation.report.page import ReportInputs, render_report
from tests.helpers.reports import report_inputs, report_metrics, report_timing


@pytest.fixture(scope="module")
def metrics() -> dict[str, Any]:
    return report_metrics()


@pytest.fixture(scope="module")
def timing() -> dict[str, Any]:
    return report_timing()


@pytest.fixture(scope="module")
def inputs(metrics: dict[str, Any], timing: dict[str, Any]) -> ReportInputs:
    return report_inputs(metrics, timing)


@pytest.fixture(scope="module")
def html(inputs: ReportInputs) -> str:
    return render_report(inputs)
