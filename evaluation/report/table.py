"""The summary table: one row per generator, one column per measure and extractor, from metrics and timing."""

import math

import pandas as pd

from evaluation.metrics.measures import MEASURES, Measure
from evaluation.metrics.schema import GeneratorMeasures, Metrics
from evaluation.timing.schema import Latency, Timing

REAL, SUBSTITUTE = "real held-out", "teacher, other noise"  # names of the floor's row, with and without real images
STUDENT = "student"
HALF = "± "  # prefix of the title of a column of half widths
NFE, SECONDS = "NFE", "seconds per image"
# Names in the literature for distances by clean-fid's protocol; no other distance gets these names.
PROTOCOL_NAMES = {"FD inception": "FID", "FD clip_vit_b_32": "CLIP-FID"}


def sampler_title(key: str) -> str:
    """ddim_50 -> DDIM 50, heun_10 -> Heun 10."""
    name, _, steps = key.rpartition("_")
    methods = {"ddim": "DDIM", "heun": "Heun"}
    return f"{methods[name]} {steps}" if name in methods and steps.isdigit() else key


def list_extractors(metrics: Metrics) -> list[str]:
    """Feature extractors in the order of the metrics."""
    return list(metrics.student.values("fd"))


def floor_name(metrics: Metrics) -> str:
    """Name of the floor's row: held-out images, or the teacher's own images if the data hold none."""
    return SUBSTITUTE if metrics.provenance.made_by else REAL


def floor_values(metrics: Metrics, measure: Measure) -> dict[str, float]:
    """Values of a measure in the floor's row by extractor, where they can be compared with those of generators.

    Empty for a measure that depends on the number of images if that of held-out images is another.
    """
    if measure.depends_on_count and metrics.real.samples != metrics.student.samples:
        return {}
    return metrics.real.values(measure.name)


def summary_table(metrics: Metrics, timing: Timing | None) -> pd.DataFrame:
    """Rows for the floor, the teacher's samplers by network passes (NFE) and the student; NaN for a missing value."""
    names = list_extractors(metrics)
    latencies = timing.teachers if timing else {}
    rows = {floor_name(metrics): _real_row(metrics, names)}
    for key, measures in sorted(metrics.teachers.items(), key=lambda item: item[1].nfe):
        rows[f"teacher {sampler_title(key)}"] = _row(measures, names, latencies.get(key))
    rows[STUDENT] = _row(metrics.student, names, timing.student if timing else None)
    table = pd.DataFrame.from_dict(rows, orient="index")
    return table.astype({NFE: "Int64"})


def _real_row(metrics: Metrics, names: list[str]) -> dict[str, float]:
    row = {NFE: math.nan}
    for measure in MEASURES.values():
        values = floor_values(metrics, measure)
        for k in _keys(measure, names):
            title = f"{measure.label} {k}".strip()
            row[title] = values.get(k, math.nan)
            if measure.shows_interval:
                row[HALF + title] = math.nan
    return row


def _keys(measure: Measure, names: list[str]) -> list[str]:
    """Keys of the values of a measure: the extractors, or "" for a measure without them."""
    return names if measure.per_extractor else [""]


def _row(measures: GeneratorMeasures, names: list[str], latency: Latency | None) -> dict[str, float]:
    row: dict[str, float] = {NFE: measures.nfe}
    for measure in MEASURES.values():
        values = measures.values(measure.name)
        intervals = measures.interval.values(measure.name) if measure.has_interval else {}
        for extractor in _keys(measure, names):
            title = f"{measure.label} {extractor}".strip()
            row[title] = values.get(extractor, math.nan)
            if measure.shows_interval:
                row[HALF + title] = intervals[extractor].half_width if extractor in intervals else math.nan
    row[SECONDS] = latency.seconds_per_image if latency else math.nan
    return row


def measure_of(title: str) -> Measure | None:
    """Measure of a column by its title; None for other columns."""
    title = title.removeprefix(HALF)
    candidates = [m for m in MEASURES.values() if f"{title} ".startswith(f"{m.label} ")]
    return max(candidates, key=lambda m: len(m.label), default=None)


def format_number(value: float, decimals: int = 3) -> str:
    """Format with `decimals` decimals, with fewer from 10 on; empty for NaN."""
    if pd.isna(value):
        return ""
    return f"{value:.{decimals if abs(value) < 10 else 2 if abs(value) < 100 else 1}f}"


def _format_cell(title: str, value: float) -> str:
    """Format a number as its column requires: counts as integers, seconds to three significant digits."""
    if pd.isna(value):
        return ""
    if title == NFE:
        return f"{int(value)}"
    if title == SECONDS:
        return f"{value:#.3g}" if value >= 1e-4 else f"{value:.2e}"
    measure = measure_of(title)
    return format_number(value, measure.decimals if measure else 3)


def format_cells(table: pd.DataFrame) -> pd.DataFrame:
    """The table as text, each value joined with half its interval, `0.840 ± 0.120`, and without empty columns."""
    text = pd.DataFrame({c: [_format_cell(c, v) for v in table[c]] for c in table.columns}, index=table.index)
    for column in [c for c in table.columns if c.startswith(HALF)]:
        title = column.removeprefix(HALF)
        text[title] = [v + (f" ± {half}" if half else "") for v, half in zip(text[title], text[column], strict=True)]
        text = text.drop(columns=column)
    text = text.rename(columns=PROTOCOL_NAMES)
    return text.loc[:, (text != "").any()]


def format_table(table: pd.DataFrame) -> str:
    """The headline columns for a terminal, aligned, with a heading of two lines."""
    text = format_cells(table.loc[:, [c for c in table if _is_headline(c)]])
    head = [["", *(c.partition(" ")[0] for c in text.columns)], ["", *(c.partition(" ")[2] for c in text.columns)]]
    rows = [[str(name), *row] for name, row in zip(text.index, text.to_numpy().tolist(), strict=True)]
    return align(head, rows)


def align(head: list[list[str]], rows: list[list[str]]) -> str:
    """Lines of a table for a terminal: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*head, *rows, strict=True)]
    lines = [*head, ["-" * w for w in widths], *rows]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))]).rstrip()
        for line in lines
    )


def _is_headline(title: str) -> bool:
    measure = measure_of(title)
    return title in (NFE, SECONDS) or (measure is not None and measure.headline)
