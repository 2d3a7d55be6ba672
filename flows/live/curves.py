"""A picture of the curves of a run so far, for the page of its Prefect run."""

import io
from collections.abc import Iterator, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evaluation.report.charts import thin
from evaluation.report.training import AXES, LOSSES, group_columns
from flows.live.feed import Feed

VALIDATION = "Distance to the validation split"
PANEL = (6.0, 2.6)  # inches
DPI = 100
AXIS = {"train": "generator turn (count)"}  # by stage; other trainings count optimizer steps
STEPS = "optimizer step (count)"


def draw_curves(feeds: Sequence[Feed]) -> bytes | None:
    """A PNG with the losses of each training, and the validation scores; None without rows."""
    panels = [panel for feed in feeds for panel in _list_panels(feed)]
    if not panels:
        return None
    figure = Figure(figsize=(PANEL[0], PANEL[1] * len(panels)), dpi=DPI, layout="constrained")
    for place, (title, stage, label, table) in enumerate(panels, start=1):
        _draw(figure.add_subplot(len(panels), 1, place), table, title, AXIS.get(stage, STEPS), label)
    out = io.BytesIO()
    figure.savefig(out, format="png")
    return out.getvalue()


def _list_panels(feed: Feed) -> Iterator[tuple[str, str, str, pd.DataFrame]]:
    """Yield title, stage, label of y, and curves of each panel of a training."""
    table = feed.thin_table()
    name = feed.group.rstrip("/.").replace("/", ", ")
    for group, columns in group_columns(table).items():
        if group in (LOSSES, VALIDATION):
            yield f"{name}: {group.lower()}", feed.file.parent.name, AXES[group], table.loc[:, columns]


def _draw(axes: Axes, table: pd.DataFrame, title: str, x: str, y: str) -> None:
    for column, values in table.items():
        known = values.dropna()
        if known.empty:
            continue
        steps, mean, _, _ = thin(known.index.to_numpy(float), known.to_numpy(float))
        axes.plot(steps, mean, "-o" if len(steps) <= 40 else "-", ms=3, lw=1.3, label=str(column))
    axes.set_title(title, fontsize=9)
    axes.set_xlabel(x, fontsize=8)
    axes.set_ylabel(y, fontsize=8)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
