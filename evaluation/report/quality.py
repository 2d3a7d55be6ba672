"""Quality against cost: charts of the page, and the same charts as files for `dvc plots` and MLflow.

The files hold no seconds, which differ between equal runs; timing.json and the page show them.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from dmd.storage.files import new_folder, write_text
from evaluation.metrics.measures import MEASURES, Measure
from evaluation.metrics.schema import GeneratorMeasures, Metrics
from evaluation.report.charts import Point, quality_chart, to_svg_file
from evaluation.report.table import STUDENT, floor_name, floor_values, list_extractors, sampler_title
from evaluation.timing.schema import Timing

PASSES = "network passes per image (NFE, fewer is faster)"  # label of the x axis


@dataclass(frozen=True)
class Figure:
    """A chart as inline SVG, with its title."""

    title: str
    svg: Markup


def fd_point(name: str, x: float, measures: GeneratorMeasures, extractor: str) -> Point:
    """Fréchet distance of a generator with its interval, at cost x."""
    interval = measures.interval.values("fd")[extractor]
    return Point(name, x, measures.values("fd")[extractor], interval.low, interval.high)


def quality_figures(metrics: Metrics, timing: Timing | None) -> list[Figure]:
    """Charts per extractor: distance against network passes, and against time if it was measured."""
    figures = []
    for name in list_extractors(metrics):
        figures.append(_plot_against_passes(metrics, name))
        if timing is not None:
            figures.append(_plot_against_time(metrics, timing, name))
    return figures


def _plot_against_passes(metrics: Metrics, extractor: str) -> Figure:
    passes = {k: float(v.nfe) for k, v in metrics.teachers.items()}
    title = f"{extractor}{metrics.ratio.mark(extractor)} features: distance against network passes"
    return _plot(title, PASSES, passes, metrics.student.nfe, metrics, extractor)


def _plot_against_time(metrics: Metrics, timing: Timing, extractor: str) -> Figure:
    milliseconds = {k: 1000 * v.seconds_per_image for k, v in timing.teachers.items() if k in metrics.teachers}
    student = 1000 * timing.student.seconds_per_image
    title = f"{extractor}{metrics.ratio.mark(extractor)} features: distance against time"
    return _plot(title, "milliseconds per image (fewer is faster)", milliseconds, student, metrics, extractor)


def _plot(
    title: str, axis: str, costs: dict[str, float], student_cost: float, metrics: Metrics, extractor: str
) -> Figure:
    """Chart of the teacher's samplers and the student at their costs."""
    teachers = [
        fd_point(k, x, metrics.teachers[k], extractor) for k, x in sorted(costs.items(), key=lambda item: item[1])
    ]
    student = fd_point(STUDENT, student_cost, metrics.student, extractor)
    values = ", ".join(f"{sampler_title(p.name)} {p.y:.3g}" for p in teachers)
    alt = f"{title}. Teacher: {values}; student {student.y:.3g}. Lower is better."
    floor = floor_values(metrics, MEASURES["fd"]).get(extractor)
    return Figure(title, Markup(quality_chart(_split_curves(teachers), student, floor, axis, alt)))


def _split_curves(teachers: list[Point]) -> dict[str, list[Point]]:
    """One curve for each kind of sampler: a line between points of DDIM and of Heun's method has no meaning."""
    curves: dict[str, list[Point]] = {}
    for p in teachers:
        curves.setdefault(f"teacher {sampler_title(p.name).rpartition(' ')[0]}".rstrip(), []).append(p)
    return curves if len(curves) > 1 else {"teacher": teachers}


def quality_table(metrics: Metrics) -> pd.DataFrame:
    """A row per generator, ordered by passes, with the headline measures of each extractor."""
    teachers = sorted(metrics.teachers.items(), key=lambda item: item[1].nfe)
    names = list_extractors(metrics)
    rows = [
        _real_row(metrics, names),
        *(_row("teacher", f"teacher {sampler_title(key)}", measures, names) for key, measures in teachers),
        _row("student", STUDENT, metrics.student, names),
    ]
    return pd.DataFrame(rows).astype({"nfe": "Int64"})


def _real_row(metrics: Metrics, extractors: list[str]) -> dict[str, Any]:
    """Row of the floor, without the measures that cannot be compared with those of generators."""
    row: dict[str, Any] = {"name": floor_name(metrics), "kind": "real", "nfe": None}
    for m in _plotted():
        row |= {f"{m.name}_{k}": v for k, v in floor_values(metrics, m).items() if k in extractors}
    return row


def _row(kind: str, name: str, measures: GeneratorMeasures, extractors: list[str]) -> dict[str, Any]:
    """Row of one generator, with the interval of each measure that has one in tables."""
    row: dict[str, Any] = {"name": name, "kind": kind, "nfe": measures.nfe}
    for extractor in extractors:
        for m in _plotted():
            row[f"{m.name}_{extractor}"] = measures.values(m.name).get(extractor)
            if m.shows_interval:
                interval = measures.interval.values(m.name)[extractor]
                row |= {f"{m.name}_{extractor}_low": interval.low, f"{m.name}_{extractor}_high": interval.high}
    return row


def _plotted() -> list[Measure]:
    """Measures in the table for plots."""
    return [m for m in MEASURES.values() if m.headline and m.per_extractor]


def write_quality(metrics: Metrics, table: Path, charts: Path) -> None:
    """Write the table as CSV, and a folder of SVG files: distance against network passes, one per extractor."""
    with new_folder(charts) as folder:
        for k in list_extractors(metrics):
            write_text(folder / f"fd_{k}.svg", to_svg_file(str(_plot_against_passes(metrics, k).svg)))
    write_text(table, quality_table(metrics).to_csv(index=False))
