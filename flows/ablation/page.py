"""The page reports/ablations/NAME.html: the rows as a table, plots by parameter, and samples side by side."""

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from markupsafe import Markup

from dmd.storage.files import write_text
from evaluation.metrics.measures import MEASURES
from evaluation.report.charts import Point, setting_chart
from evaluation.report.html import Card, Picture, embed_png, render_template
from flows.ablation import experiment
from flows.ablation.comparison import (
    COLUMNS,
    FD_RATIO,
    PIXELS,
    TURNS,
    UNSEEN,
    RowSummary,
    comparison_path,
    describe_table,
    format_measure,
    format_seeds,
)
from flows.ablation.plan import Member, Plan
from flows.pipeline.changes import Change, Value
from flows.registry.result import SAMPLES

Setting = Change | tuple[Any, ...]  # a value of a parameter; a tuple for a list


@dataclass(frozen=True)
class Sweep:
    """Rows that differ in one parameter only, as lines of a plot: (value, row) in ascending order."""

    parameter: str
    lines: dict[str, list[tuple[Setting, RowSummary]]]


def load_samples(root: Path, members: list[Member]) -> dict[Member, bytes]:
    """PNG of the samples of each row's first seed among `members`."""
    first: dict[str, Member] = {}
    for member in members:
        first.setdefault(member.row, member)
    files = {member: experiment.read(root, member, SAMPLES) for member in first.values()}
    return {member: data for member, data in files.items() if data}


def write_page(
    root: Path, plan: Plan, rows: list[RowSummary], samples: dict[Member, bytes], failed: dict[Member, str]
) -> Path:
    """Write the page and return its path; `failed` holds the reason for each member without a result."""
    columns = [name for name in _column_names(rows) if any(name in row.measures for row in rows)]
    html = render_template(
        "ablation.html.j2",
        name=plan.name,
        description=plan.ablation.description,
        subject=describe_table(root, plan, rows),
        cards=make_cards(rows, len(plan.members), len(failed)),
        columns=[_title(name) for name in columns],
        rows=[(row.name, format_seeds(row), [format_measure(row, name) for name in columns]) for row in rows],
        same="noise and labels" if any("clip_score" in row.measures for row in rows) else "noise",
        failed=[(f"{m.row} seed {m.seed}", reason) for m, reason in failed.items()],
        sweeps=[(sweep.parameter, draw_charts(sweep)) for sweep in find_sweeps(plan, rows)],
        pictures=[Picture(f"{m.row}, seed {m.seed}", embed_png(data)) for m, data in samples.items()],
        changes=[(row.name, _format_changes(row.changes) or "nothing: params.yaml unchanged") for row in rows],
        base=_format_changes(plan.ablation.base),
    )
    path = comparison_path(root, plan.name).with_suffix(".html")
    write_text(path, html)
    return path


def _title(measure: str) -> str:
    name, _, extractor = measure.partition(".")
    own = {FD_RATIO: "FD ratio", UNSEEN: "unseen FD ratio", TURNS: TURNS}
    title = own | {m.name: m.label for m in MEASURES.values()} | PIXELS
    return f"{title[name]}, {extractor}" if extractor else title[name]


def _column_names(rows: list[RowSummary]) -> list[str]:
    """FD ratio, FD ratio by extractor, then the other measures."""
    ratios = dict.fromkeys(name for row in rows for name in row.measures if name.startswith(f"{FD_RATIO}."))
    return list(dict.fromkeys([FD_RATIO, UNSEEN, *ratios, *COLUMNS, TURNS, *PIXELS]))


def _format_changes(changes: Mapping[str, Value | tuple[Value, ...]]) -> str:
    return ", ".join(f"{key}: {_format_value(value)}" for key, value in changes.items())


def _format_value(value: Value | tuple[Value, ...]) -> str:
    """The value in YAML notation."""
    return value if isinstance(value, str) else json.dumps(value)


def make_cards(rows: list[RowSummary], members: int, failed: int) -> list[Card]:
    """Headline figures: the lowest FD ratio, and the number of members with a result."""
    cards = []
    if candidates := [row for row in rows if FD_RATIO in row.measures]:
        best = min(candidates, key=lambda row: row.measures[FD_RATIO].mean)
        ratio = best.measures[FD_RATIO]
        tone = "good" if ratio.std is not None and ratio.interval[1] < 1 else "even"
        words = f"{best.name}: Fréchet distance over that of the teacher's best sampler, mean over feature extractors."
        if ratio.std is None:
            words += " One seed, so that the standard deviation is unknown."
        else:
            words += f" Standard deviation over {len(best.seeds)} seeds: {ratio.std:.3f}."
        if len(candidates) > 1:
            words += f" The lowest of {len(candidates)} rows is so partly by chance."
        cards.append(Card(f"{ratio.mean:.3f}", "lowest FD ratio", words, tone))
    words = f"{len(rows)} rows. Each member is a DVC experiment and an MLflow run."
    tone = "bad" if failed else "good"
    return [*cards, Card(f"{members - failed} of {members}", "members have a result", words, tone)]


def find_sweeps(plan: Plan, rows: list[RowSummary]) -> list[Sweep]:
    """A sweep for each parameter that has two values or more while all other parameters are equal.

    A parameter that a row does not change has its value from `base` or from params.yaml.
    """
    keys = list(dict.fromkeys(key for row in rows for key in row.changes))
    sweeps = []
    for key in keys:
        others = [other for other in keys if other != key]
        groups: defaultdict[tuple[Setting, ...], list[tuple[Setting, RowSummary]]] = defaultdict(list)
        for row in (row for row in rows if row.seeds):
            groups[tuple(parameter(plan, row, other) for other in others)].append((parameter(plan, row, key), row))
        lines = {rest: sorted(line, key=_sort_key) for rest, line in groups.items() if len({v for v, _ in line}) > 1}
        if lines:
            differ = [i for i in range(len(others)) if len({rest[i] for rest in lines}) > 1]
            names = [_format_changes({others[i].rpartition(".")[2]: rest[i] for i in differ}) for rest in lines]
            sweeps.append(Sweep(key, dict(zip(names, lines.values(), strict=True))))
    return sweeps


def parameter(plan: Plan, row: RowSummary, key: str) -> Setting:
    """Value of a parameter in a row, from its changes, else from `base`, else from params.yaml; a tuple for a list."""
    value: Any = {**plan.ablation.base, **row.changes}.get(key, plan.params)
    if value is plan.params:
        for part in key.split("."):
            value = value[part]
    return tuple(value) if isinstance(value, list) else value


def _sort_key(point: tuple[Setting, object]) -> tuple[float, str]:
    value = point[0]
    return (float(value), "") if _is_number(value) else (0.0, str(value))


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def draw_charts(sweep: Sweep) -> list[tuple[str, Markup]]:
    """Title and SVG of a plot for each measure that all rows of the sweep have."""
    rows = [row for line in sweep.lines.values() for _, row in line]
    shared = [measure for measure in COLUMNS if all(measure in row.measures for row in rows)]
    return [(_title(measure), Markup(_draw_chart(sweep, measure))) for measure in shared]


def _draw_chart(sweep: Sweep, measure: str) -> str:
    """SVG of a measure against the parameter. Numbers have a numeric axis, other values are evenly spaced."""
    values = sorted({value for line in sweep.lines.values() for value, _ in line}, key=lambda v: _sort_key((v, None)))
    numeric = all(_is_number(v) for v in values)
    lines = {
        name: [
            Point(_format_value(v), v if numeric and _is_number(v) else values.index(v), spread.mean, *spread.interval)
            for v, row in line
            for spread in [row.measures[measure]]
        ]
        for name, line in sweep.lines.items()
    }
    figures = "; ".join(
        f"{row.name} {format_measure(row, measure)}" for line in sweep.lines.values() for _, row in line
    )
    alt = f"{_title(measure)} against {sweep.parameter}: {figures}."
    return setting_chart(lines, f"{sweep.parameter} (as in params.yaml)", _label_axis(measure), alt)


def _label_axis(measure: str) -> str:
    """Quantity, unit and direction of a measure of COLUMNS."""
    known = MEASURES.get(measure)
    unit, better = (known.unit, known.direction) if known else ("student / teacher", "lower")
    return f"{_title(measure)}\n({unit}, {better} is better)"
