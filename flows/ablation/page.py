"""reports/ablations/NAME.html: the rows of an ablation as a table, plots by parameter, and pictures side by side."""

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from dmd.storage.files import write_text
from evaluation.report.charts import Point, setting_chart
from evaluation.report.page import Card, Picture, page, png_source
from flows.ablation import experiment
from flows.ablation.comparison import COLUMNS, cell, report, seeds
from flows.ablation.plan import Member, Plan
from flows.pipeline.changes import Change, Changes
from flows.registry.result import SAMPLES

WORDS = {
    "fd_ratio": "FD ratio",
    "clip_score": "CLIP score",
    "generator_x_mean": "pixel mean",
    "generator_x_std": "pixel std",
    "generator_real_mean": "real pixel mean",
    "generator_real_std": "real pixel std",
}
LOWEST_IS_BEST = "fd_ratio"

Row = dict[str, Any]


@dataclass(frozen=True)
class Sweep:
    """Rows that differ in one parameter alone, joined to lines: (value, row) in the order of the values."""

    parameter: str
    lines: dict[str, list[tuple[Change, Row]]]


def first_pictures(root: Path, done: list[Member]) -> dict[Member, bytes]:
    """The samples of each row's first seed, as a PNG."""
    first: dict[str, Member] = {}
    for member in done:
        first.setdefault(member.row, member)
    found = {member: experiment.read(root, member, SAMPLES) for member in first.values()}
    return {member: data for member, data in found.items() if data}


def render(root: Path, plan: Plan, rows: list[Row], pictures: dict[Member, bytes], failed: dict[Member, str]) -> Path:
    """Write the page and return its path; `failed` holds the reason for each member without a result."""
    shown = [name for name in _columns(rows) if any(name in row for row in rows)]
    html = page(
        "ablation.html.j2",
        name=plan.name,
        description=plan.ablation.description,
        cards=cards(rows, len(plan.members), len(failed)),
        columns=[WORDS.get(name, name.replace("fd_ratio.", "FD ratio, ")) for name in shown],
        rows=[(row["name"], seeds(row), [cell(row, name) for name in shown]) for row in rows],
        failed=[(f"{m.row} seed {m.seed}", reason) for m, reason in failed.items()],
        sweeps=[(sweep.parameter, figures(sweep)) for sweep in sweeps(plan, rows)],
        pictures=[Picture(f"{m.row}, seed {m.seed}", png_source(data)) for m, data in pictures.items()],
        changes=[(row["name"], _listed(row["changes"]) or "nothing: params.yaml as it is") for row in rows],
        base=_listed(plan.ablation.base),
    )
    path = report(root, plan.name).with_suffix(".html")
    write_text(path, html)
    return path


def _columns(rows: list[Row]) -> list[str]:
    ratios = dict.fromkeys(name for row in rows for name in row if name.startswith("fd_ratio."))
    others = [name for name in (*COLUMNS, *WORDS) if name != "fd_ratio"]
    return list(dict.fromkeys(["fd_ratio", *ratios, *others]))


def _listed(changes: Changes) -> str:
    return ", ".join(f"{key}: {_written(value)}" for key, value in changes.items())


def _written(value: Change | list[int]) -> str:
    """As in a YAML file."""
    return value if isinstance(value, str) else json.dumps(value)


def cards(rows: list[Row], members: int, failed: int) -> list[Card]:
    """The best row, and how many members there are."""
    made = []
    if judged := [row for row in rows if LOWEST_IS_BEST in row]:
        best = min(judged, key=lambda row: row[LOWEST_IS_BEST]["mean"])
        ratio = best[LOWEST_IS_BEST]
        tone = "good" if ratio["mean"] < 1 else "even"
        words = f"{best['name']}: the Fréchet distance over that of the teacher's best sampler, the mean of all judges."
        words += f" Standard deviation over {len(best['seeds'])} seeds: {ratio['std']:.3f}."
        made.append(Card(f"{ratio['mean']:.3f}", "the lowest FD ratio", words, tone))
    words = f"{len(rows)} rows; each member is a DVC experiment and an MLflow run."
    tone = "bad" if failed else "good"
    return [*made, Card(f"{members - failed} of {members}", "members have a result", words, tone)]


def sweeps(plan: Plan, rows: list[Row]) -> list[Sweep]:
    """A sweep for each parameter of which two values occur with all else equal; what a row leaves is in params.yaml."""
    keys = list(dict.fromkeys(key for row in rows for key in row["changes"]))
    made = []
    for key in keys:
        others = [other for other in keys if other != key]
        groups: defaultdict[tuple[Change, ...], list[tuple[Change, Row]]] = defaultdict(list)
        for row in (row for row in rows if row["seeds"]):
            groups[tuple(setting(plan, row, other) for other in others)].append((setting(plan, row, key), row))
        lines = {rest: sorted(line, key=_order) for rest, line in groups.items() if len({v for v, _ in line}) > 1}
        if lines:
            differ = [i for i in range(len(others)) if len({rest[i] for rest in lines}) > 1]
            names = [_listed({others[i].rpartition(".")[2]: rest[i] for i in differ}) for rest in lines]
            made.append(Sweep(key, dict(zip(names, lines.values(), strict=True))))
    return made


def setting(plan: Plan, row: Row, key: str) -> Change:
    """A parameter's value in a row."""
    value: Any = {**plan.ablation.base, **row["changes"]}.get(key, plan.params)
    if value is plan.params:
        for part in key.split("."):
            value = value[part]
    return value


def _order(point: tuple[Change, Row]) -> tuple[float, str]:
    return (float(point[0]), "") if _is_number(point[0]) else (0.0, str(point[0]))


def _is_number(value: Change) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def figures(sweep: Sweep) -> list[tuple[str, Markup]]:
    """A plot per measure that every row of the sweep has."""
    rows = [row for line in sweep.lines.values() for _, row in line]
    return [(WORDS.get(m, m), Markup(_figure(sweep, m))) for m in COLUMNS if all(m in row for row in rows)]


def _figure(sweep: Sweep, measure: str) -> str:
    """Numbers stand where they belong on the axis, anything else in a row."""
    values = sorted({value for line in sweep.lines.values() for value, _ in line}, key=lambda v: _order((v, {})))
    numeric = all(_is_number(v) for v in values)
    lines = {
        name: [
            Point(_written(v), float(v) if numeric else values.index(v), mean, mean - std, mean + std)
            for v, row in line
            for mean, std in [(row[measure]["mean"], row[measure]["std"])]
        ]
        for name, line in sweep.lines.items()
    }
    known = "; ".join(f"{row['name']} {cell(row, measure)}" for line in sweep.lines.values() for _, row in line)
    return setting_chart(lines, sweep.parameter, f"{WORDS.get(measure, measure)} against {sweep.parameter}: {known}.")
