"""Quality against cost: the page's charts, and the same as files for `dvc plots` and MLflow.

The files hold no seconds: those differ from run to run, and stand in timing.json and on the page.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from dmd.storage.files import new_folder, write_text
from evaluation.report.charts import Point, as_file, quality_chart
from evaluation.report.table import STUDENT, extractors, real_name, sampler_name


@dataclass(frozen=True)
class Figure:
    title: str
    svg: Markup


def point(name: str, x: float, measures: dict[str, Any], extractor: str) -> Point:
    """A generator's distance with its interval; without one, no bar."""
    y = measures["fd"][extractor]
    interval = measures.get("interval", {}).get("fd", {}).get(extractor, {"low": y, "high": y})
    return Point(name, x, y, interval["low"], interval["high"])


def quality_figures(metrics: dict[str, Any], timing: dict[str, Any]) -> list[Figure]:
    """Distance against network passes, then against seconds where there are timings, per extractor."""
    figures = []
    for name in extractors(metrics):
        figures.append(_against_passes(metrics, name))
        if timing.get("teachers"):
            figures.append(_against_time(metrics, timing, name))
    return figures


def _against_passes(metrics: dict[str, Any], extractor: str) -> Figure:
    passes = {k: v["nfe"] for k, v in metrics["teachers"].items()}
    title = f"{extractor} features: distance against network passes"
    return _figure(title, "network passes per image (NFE)", passes, metrics["student"]["nfe"], metrics, extractor)


def _against_time(metrics: dict[str, Any], timing: dict[str, Any], extractor: str) -> Figure:
    milliseconds = {k: 1000 * v["seconds_per_image"] for k, v in timing["teachers"].items() if k in metrics["teachers"]}
    own = 1000 * timing["student"]["seconds_per_image"]
    title = f"{extractor} features: distance against time"
    return _figure(title, "milliseconds per image", milliseconds, own, metrics, extractor)


def _figure(
    title: str, axis: str, cost: dict[str, float], own: float, metrics: dict[str, Any], extractor: str
) -> Figure:
    teachers = [
        point(k, x, metrics["teachers"][k], extractor) for k, x in sorted(cost.items(), key=lambda item: item[1])
    ]
    student = point(STUDENT, own, metrics["student"], extractor)
    known = ", ".join(f"{sampler_name(p.name)} {p.y:.3g}" for p in teachers)
    alt = f"{title}. Teacher: {known}; student {student.y:.3g}. Lower is better."
    floor = metrics["real"]["fd"].get(extractor)
    return Figure(title, Markup(quality_chart(_curves(teachers), student, floor, axis, alt)))


def _curves(teachers: list[Point]) -> dict[str, list[Point]]:
    """One for each kind of sampler: what lies between a point of DDIM's and one of Heun's is neither's."""
    curves: dict[str, list[Point]] = {}
    for p in teachers:
        curves.setdefault(f"teacher {sampler_name(p.name).rpartition(' ')[0]}".rstrip(), []).append(p)
    return curves if len(curves) > 1 else {"teacher": teachers}


def quality_table(metrics: dict[str, Any]) -> pd.DataFrame:
    """A row per generator, ordered by passes; per extractor the distance with its interval, precision and recall."""
    teachers = sorted(metrics["teachers"].items(), key=lambda item: item[1]["nfe"])
    rows = [("real", real_name(metrics), metrics["real"]), ("student", STUDENT, metrics["student"])]
    rows[1:1] = [("teacher", f"teacher {sampler_name(key)}", measures) for key, measures in teachers]
    return pd.DataFrame([_row(*row, extractors(metrics)) for row in rows]).astype({"nfe": "Int64"})


def _row(kind: str, name: str, measures: dict[str, Any], names: list[str]) -> dict[str, Any]:
    row: dict[str, Any] = {"name": name, "kind": kind, "nfe": measures.get("nfe")}
    for k in names:
        at = point(name, 0, measures, k)
        row |= {f"fd_{k}": at.y, f"fd_{k}_low": at.low, f"fd_{k}_high": at.high}
        row |= {f"{share}_{k}": measures[share].get(k) for share in ("precision", "recall")}
    return row


def write_quality(metrics: dict[str, Any], table: Path, charts: Path) -> None:
    """The table as CSV, and a folder of SVG files: distance against network passes, one per extractor."""
    with new_folder(charts) as folder:
        for k in extractors(metrics):
            write_text(folder / f"fd_{k}.svg", as_file(str(_against_passes(metrics, k).svg)))
    write_text(table, quality_table(metrics).to_csv(index=False))
