"""Tables of the report with a group of rows for each extractor, so that they have few columns and fit a phone."""

import math
from dataclasses import dataclass

from evaluation.metrics.measures import MEASURES, Measure
from evaluation.metrics.schema import GeneratorMeasures, Metrics
from evaluation.report.table import (
    PROTOCOL_NAMES,
    STUDENT,
    floor_name,
    floor_values,
    format_number,
    list_extractors,
    sampler_title,
)
from evaluation.timing.schema import Timing

ARROWS = {"lower": "\N{DOWNWARDS ARROW}", "higher": "\N{UPWARDS ARROW}"}
WITHOUT_FEATURES = "by captions and labels"  # title of the group of measures without an extractor
MILLISECONDS = f"ms {ARROWS['lower']}"  # per image


@dataclass(frozen=True)
class Group:
    """Rows of a table under a heading; a row has a name and a cell for each column."""

    title: str
    rows: list[tuple[str, list[str]]]


def headline_columns() -> list[str]:
    """Columns of the headline table after the name of the generator."""
    return ["NFE", *(_label(m) for m in _headline()), MILLISECONDS]


def headline_groups(metrics: Metrics, timing: Timing | None) -> list[Group]:
    """A group for each extractor: held-out images, the teacher's samplers by network passes, and the student."""
    latencies = timing.teachers if timing else {}
    seconds = {k: latency.seconds_per_image for k, latency in latencies.items()}
    if timing:
        seconds[STUDENT] = timing.student.seconds_per_image
    generators = dict(sorted(metrics.teachers.items(), key=lambda item: item[1].nfe)) | {STUDENT: metrics.student}
    groups = []
    for k in list_extractors(metrics):
        real = [format_number(floor_values(metrics, m).get(k, math.nan), m.decimals) for m in _headline()]
        rows = [(floor_name(metrics), ["", *real, ""])]
        for name, measures in generators.items():
            cells = [_cell(measures, m, k) for m in _headline()]
            row = [str(measures.nfe), *cells, _milliseconds(seconds.get(name, math.nan))]
            rows.append((sampler_title(name), row))
        groups.append(Group(_title(metrics, k), rows))
    return groups


def measure_groups(metrics: Metrics) -> list[Group]:
    """A group for each extractor: all measures of the student, the teacher's best sampler and the held-out images."""
    groups = [
        _measure_group(metrics, f"{_title(metrics, k)}; teacher: {sampler_title(best)}", k, best)
        for k, best in metrics.best_teacher.items()
    ]
    best = next(iter(metrics.best_teacher.values()))
    groups.append(_measure_group(metrics, f"{WITHOUT_FEATURES}; teacher: {sampler_title(best)}", "", best))
    return [group for group in groups if group.rows]


def _measure_group(metrics: Metrics, title: str, extractor: str, sampler: str) -> Group:
    rows = []
    for measure in MEASURES.values():
        if measure.per_extractor != bool(extractor):
            continue
        cells = [_cell(side, measure, extractor) for side in (metrics.student, metrics.teachers[sampler])]
        real = format_number(floor_values(metrics, measure).get(extractor, math.nan), measure.decimals)
        if any(cells):
            rows.append((f"{_label(measure)}{metrics.ratio.mark(measure.judge)}", [*cells, real]))
    return Group(title, rows)


def _headline() -> list[Measure]:
    return [m for m in MEASURES.values() if m.headline and m.per_extractor]


def _label(measure: Measure) -> str:
    return f"{measure.label} {ARROWS[measure.direction]}"


def _title(metrics: Metrics, extractor: str) -> str:
    """Name of an extractor with its marks, and the name that its FD has in the literature, if any."""
    known = PROTOCOL_NAMES.get(f"FD {extractor}")
    return f"{extractor}{metrics.ratio.mark(extractor)}" + (f": FD is {known}" if known else "")


def _cell(measures: GeneratorMeasures, measure: Measure, extractor: str) -> str:
    """A value with half of its interval, `0.840 ± 0.120`; empty without a value."""
    value = measures.values(measure.name).get(extractor, math.nan)
    intervals = measures.interval.values(measure.name) if measure.has_interval and measure.shows_interval else {}
    half = f" ± {format_number(intervals[extractor].half_width, measure.decimals)}" if extractor in intervals else ""
    return f"{format_number(value, measure.decimals)}{half}" if not math.isnan(value) else ""


def _milliseconds(seconds: float) -> str:
    return "" if math.isnan(seconds) else f"{1000 * seconds:.3g}"
