"""The report's plots as inline SVG: equal data give equal bytes; colours follow the page (dark, light, print)."""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter, NullLocator, ScalarFormatter

STYLESHEET = Path(__file__).with_name("templates") / "style.css"
DISTANCE = "FD (feature units²,\nlower is better)"
MAX_POINTS = 150  # points of a curve: more rows are averaged in bins, and a band shows the range of each bin
INK, MUTED, GRID = "#010203", "#010204", "#010205"
SERIES = ("#010211", "#010212", "#010213", "#010214", "#010215", "#010216")
# matplotlib writes these placeholder colours; CSS variables of the page's stylesheet replace them.
CSS = {INK: "currentColor", MUTED: "var(--muted)", GRID: "var(--line)"} | {
    c: f"var(--series-{i})" for i, c in enumerate(SERIES, start=1)
}
STYLE: Any = {
    "svg.fonttype": "none",
    "font.size": 8.5,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.handlelength": 1.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.minor.visible": False,
    "ytick.minor.visible": False,
    "lines.solid_capstyle": "round",
}


@dataclass(frozen=True)
class Point:
    """One generator in a plot of quality against cost."""

    name: str
    x: float
    y: float
    low: float
    high: float


def _render_svg(fig: Figure, alt: str) -> str:
    """Inline <svg> without ids, metadata, namespaces or a fixed size."""
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": alt, "svg.fonttype": "none"}):
        fig.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', "<g", text).replace("xlink:href", "href")
    box = re.search(r'viewBox="([^"]*)"', text)
    head = f'<svg viewBox="{box.group(1) if box else ""}" role="img" aria-label="{escape(alt)}">'
    text = re.sub(r"<svg[^>]*>", lambda _: head, text, count=1)
    text = re.sub(r"#0102[01][0-9]", lambda m: CSS[m.group()], text)
    return re.sub(r"\n\s*", "\n", text)


def to_svg_file(svg: str) -> str:
    """Turn a chart of the page into an SVG file with the page's light colours on white."""
    size = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
    assert size is not None
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{size[1]}pt" height="{size[2]}pt"'
    text = svg.replace("<svg", head, 1).replace(">", '>\n<rect width="100%" height="100%" fill="#fff"/>', 1)
    light = dict(re.findall(r"--([\w-]+): (#\w+)", STYLESHEET.read_text().partition("}")[0]))
    text = re.sub(r"var\(--([\w-]+)\)", lambda match: light[match[1]], text)
    return text.replace("currentColor", light["ink"]) + "\n"


def _new_axes(width: float, height: float) -> tuple[Figure, Axes]:
    fig = Figure(figsize=(width, height), layout="constrained")
    return fig, fig.add_subplot()


def _format_tick(value: float, _: int | None = None) -> str:
    """Format a tick without trailing zeros, and in thousands from 10,000 on: 1, 0.5, 3e-05, 1200, 20k."""
    if abs(value) >= 10_000 and value % 1000 == 0:
        return f"{value / 1000:g}k"
    return f"{value:.0f}" if 1000 <= abs(value) < 10_000 else f"{value:.3g}"


def _set_log_x(ax: Axes, values: Sequence[float]) -> None:
    """Make the x axis logarithmic, with ticks at the points themselves unless they overlap."""
    ax.set_xscale("log")
    low, high = min(values), max(values)
    room = max(high / low, 1.5) ** 0.08
    ax.set_xlim(low / room**1.2, high * room**1.2)
    ticks: list[float] = []
    for value in sorted(set(values)):
        if not ticks or value / ticks[-1] > room:
            ticks.append(value)
    ax.xaxis.set_major_locator(FixedLocator(ticks))
    ax.xaxis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{value:.2g}" if value < 99.5 else _format_tick(value))
    )
    ax.xaxis.set_minor_locator(NullLocator())


def _set_y_scale(ax: Axes, values: np.ndarray) -> None:
    """Make the y axis logarithmic if all values are positive and span more than a factor of thirty."""
    low, high = float(values.min()), float(values.max())
    if low > 0 and high > 30 * low:
        ax.set_yscale("log")
        ax.yaxis.set_minor_formatter(NullFormatter())
    ax.yaxis.set_major_formatter(FuncFormatter(_format_tick))


def _draw_errorbar(
    ax: Axes, points: Sequence[Point], colour: str, fmt: str, size: float, label: str
) -> ErrorbarContainer:
    x, y = [p.x for p in points], [p.y for p in points]
    # An interval without width is none: matplotlib draws no bar for NaN, but caps for 0.
    bars = [[p.y - p.low or np.nan for p in points], [p.high - p.y or np.nan for p in points]]
    return ax.errorbar(x, y, bars, fmt=fmt, color=colour, ms=size, lw=1.6, elinewidth=1.2, capsize=2.5, label=label)


def quality_chart(
    curves: Mapping[str, Sequence[Point]], student: Point, floor: float | None, cost: str, alt: str
) -> str:
    """Plot of the Fréchet distance against a cost: the teacher's curves, the student's point and the floor."""
    teachers = [p for curve in curves.values() for p in curve]
    colours = (SERIES[0], *SERIES[3:])  # the second is the colour of the student, the third that of the floor
    with mpl.rc_context(STYLE):
        fig, ax = _new_axes(3.9, 2.6)
        _set_log_x(ax, [p.x for p in (*teachers, student)])
        handles: list[Any] = [
            _draw_errorbar(ax, sorted(curve, key=lambda p: p.x), colours[i % len(colours)], "-o", 4.5, name)
            for i, (name, curve) in enumerate(curves.items())
        ]
        handles.append(_draw_errorbar(ax, [student], SERIES[1], "D", 6.5, "student"))
        if floor is not None:
            handles.append(ax.axhline(floor, color=SERIES[2], ls=(0, (4, 3)), lw=1.3, label="real held-out images"))
        heights = [v for p in (*teachers, student) for v in (p.low, p.high) if v > 0]
        _set_y_scale(ax, np.array([*heights, *([floor] if floor else [])]))
        if ax.get_yscale() == "linear":
            ax.set_ylim(bottom=0)
        ax.set_xlabel(cost)
        ax.set_ylabel(DISTANCE)
        fig.legend(handles=handles, loc="outside upper left", fontsize=8, ncols=3, columnspacing=1.2)
        return _render_svg(fig, alt)


def thin(turn: np.ndarray, value: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Reduce a curve to at most MAX_POINTS bins: mean turn, mean value, lowest value, highest value."""
    bins = min(len(turn), MAX_POINTS)
    groups = np.array_split(np.arange(len(turn)), bins)
    mean = np.array([value[g].mean() for g in groups])
    low = np.array([value[g].min() for g in groups])
    high = np.array([value[g].max() for g in groups])
    return np.array([turn[g].mean() for g in groups]), mean, low, high


def series_chart(frame: pd.DataFrame, columns: Sequence[str], axis: str, alt: str) -> str:
    """Plot of columns of the training log against the generator turn, without missing values; axis: label of y."""
    with mpl.rc_context(STYLE):
        fig, ax = _new_axes(3.6, 2.5)
        curves: list[np.ndarray] = []
        for i, column in enumerate(columns):
            turn, value = frame["turn"].to_numpy(float), frame[column].to_numpy(float)
            is_known = np.isfinite(value)
            x, mean, low, high = thin(turn[is_known], value[is_known])
            colour = SERIES[i % len(SERIES)]
            if is_known.sum() > len(x):
                ax.fill_between(x, low, high, color=colour, alpha=0.18, lw=0)
            ax.plot(x, mean, "-o" if len(x) <= 40 else "-", color=colour, lw=1.4, ms=3.5, label=column)
            curves.append(mean)
        _set_y_scale(ax, np.concatenate(curves))
        ax.set_xlabel("generator turn (count)")
        ax.set_ylabel(axis)
        ax.xaxis.set_major_formatter(FuncFormatter(_format_tick))
        if len(columns) > 1:
            fig.legend(loc="outside upper left", fontsize=8, ncols=2)
        return _render_svg(fig, alt)


def setting_chart(lines: Mapping[str, Sequence[Point]], setting: str, axis: str, alt: str) -> str:
    """Plot of a measure against a parameter: a line for each choice of the other parameters, bars for the spread.

    axis: label of y. The name of a point is its value as text. With more than one line, their names are the legend.
    """
    with mpl.rc_context(STYLE):
        fig, ax = _new_axes(2.8, 2.2)
        points = [p for line in lines.values() for p in line]
        for i, (name, line) in enumerate(lines.items()):
            _draw_errorbar(ax, line, SERIES[i % len(SERIES)], "-o", 4.5, name)
        if min(p.x for p in points) > 0 and max(p.x for p in points) >= 10 * min(p.x for p in points):
            _set_log_x(ax, [p.x for p in points])
        else:
            names = {p.x: p.name for p in points}
            ax.set_xticks(list(names), list(names.values()))
            ax.margins(x=0.15)
        _set_y_scale(ax, np.array([v for p in points for v in (p.low, p.high)]))
        if ax.get_yscale() == "linear":  # close values need all their digits
            ax.yaxis.set_major_formatter(ScalarFormatter(useOffset=False))
        ax.set_xlabel(setting)
        ax.set_ylabel(axis)
        if len(lines) > 1:
            fig.legend(loc="outside upper left", fontsize=8, ncols=2)
        return _render_svg(fig, alt)


def history_chart(values: Mapping[int, float], name: str, axis: str, alt: str) -> str:
    """Plot of a figure of numbered attempts, where lower is better: a dot for each, and the lowest so far as steps.

    name: of the attempts, the label of x. axis: label of y.
    """
    numbers, figures = np.array(list(values), float), np.array(list(values.values()), float)
    with mpl.rc_context(STYLE):
        fig, ax = _new_axes(2.8, 2.2)
        ax.plot(numbers, figures, "o", color=SERIES[0], ms=4, label="each")
        ax.step(numbers, np.minimum.accumulate(figures), where="post", color=SERIES[1], lw=1.6, label="lowest so far")
        ax.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        _set_y_scale(ax, figures)
        ax.set_xlabel(name)
        ax.set_ylabel(axis)
        fig.legend(loc="outside upper left", fontsize=8, ncols=2)
        return _render_svg(fig, alt)


def shares_chart(shares: Mapping[str, float], axis: str, alt: str) -> str:
    """Horizontal bars of shares of 1 by name, in the given order from the top. axis: label of x."""
    with mpl.rc_context(STYLE):
        fig, ax = _new_axes(5.6, 0.6 + 0.26 * len(shares))
        bars = ax.barh(list(shares), list(shares.values()), color=SERIES[0], height=0.62)
        ax.bar_label(bars, [f"{share:.0%}" for share in shares.values()], padding=3, fontsize=8)
        ax.invert_yaxis()
        ax.margins(x=0.12)
        ax.grid(visible=False, axis="y")
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
        ax.set_xlabel(axis)
        return _render_svg(fig, alt)
