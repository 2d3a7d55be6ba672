"""Fixtures for the tests of the report: metrics, timing, inputs and the page."""

import pytest

from evaluation.metrics.schema import Metrics
from evaluation.report.page import ReportInputs, render_report
from evaluation.timing.schema import Timing
from tests.helpers.reports import report_inputs, report_metrics, report_timing


@pytest.fixture(scope="module")
def metrics() -> Metrics:
    return report_metrics()


@pytest.fixture(scope="module")
def timing() -> Timing:
    return report_timing()


@pytest.fixture(scope="module")
def inputs(metrics: Metrics, timing: Timing) -> ReportInputs:
    return report_inputs(metrics, timing)


@pytest.fixture(scope="module")
def html(inputs: ReportInputs) -> str:
    return render_report(inputs)
