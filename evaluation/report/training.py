"""Plots and pictures of training, for the report."""

import re

import numpy as np
import pandas as pd
from markupsafe import Markup

from evaluation.report.charts import series_chart
from evaluation.report.quality import Figure

MAX_PICTURES = 12
WITHOUT_PLOT = ("turn", "step", "validation_error", "validation_kept")
TURN = re.compile(r"\bturn\s+(\d[\d,]*)|\b(\d[\d,]*)\s+(?:generator )?turns?\b", re.IGNORECASE)
GROUPS = {
    "Gradient norms": r"grad",
    "Learning rates": r"(^|_)lr(_|$)",
    "Distance to the validation split": r"^validation_",
    "Losses": r"loss|total|(^|_)(dm|critic|generator|denoising|regression|gan|adversarial)$",
    "Images: mean and standard deviation": r"(^|_)(mean|std)(_|$)",
}


LOSSES = "Losses"
# Label of the y axis by title of the group: quantity, unit, and which direction is better.
AXES = {
    "Gradient norms": "L2 norm\n(no direction is better)",
    "Learning rates": "step size of AdamW\n(a setting)",
    "Distance to the validation split": "FD / feature variance\n(lower is better)",
    LOSSES: "loss (own units,\nno direction is better)",
    "Images: mean and standard deviation": "pixel from -1 to 1\n(near the data's is better)",
}
OTHER_AXIS = "value (see the title)"


def training_figures(losses: pd.DataFrame) -> list[Figure]:
    """One plot per group of columns of the training log."""
    if "turn" not in losses or losses.empty:
        return []
    figures = []
    for title, columns in group_columns(losses).items():
        last = ", ".join(f"{c} ends at {losses[c].dropna().iloc[-1]:.3g}" for c in columns)
        alt = f"{title} during training: {last}."
        figures.append(Figure(title, Markup(series_chart(losses, columns, AXES.get(title, OTHER_AXIS), alt))))
    return figures


def group_columns(losses: pd.DataFrame) -> dict[str, list[str]]:
    """Columns that share a plot, by the plot's title; a column of no group gets a plot of its own.

    Counters, errors, empty columns, repetitions (the total of a single loss) and groups that never change are left out.
    """
    groups: dict[str, list[str]] = {title: [] for title in ("Losses", *GROUPS)}
    for column in map(str, losses.select_dtypes("number").columns):
        title = next((t for t, pattern in GROUPS.items() if re.search(pattern, column.lower())), column)
        has_values = np.isfinite(losses[column].to_numpy(float)).any()
        repeats = any(losses[column].equals(losses[other]) for other in groups.get(title, []))
        if column not in WITHOUT_PLOT and has_values and not repeats:
            groups.setdefault(title, []).append(column)
    return {title: columns for title, columns in groups.items() if any(losses[c].nunique() > 1 for c in columns)}


def find_turn(caption: str) -> int | None:
    """Turn that a caption names ("turn 100", "after 100 turns"); None for other captions."""
    match = TURN.search(caption)
    return int((match.group(1) or match.group(2)).replace(",", "")) if match else None


def select_training_pictures(captions: list[str]) -> list[str]:
    """Captions that name a turn, in order: at most MAX_PICTURES, evenly spaced, with the first and the last."""
    turns = sorted((turn, c) for c in captions if (turn := find_turn(c)) is not None)
    if len(turns) > MAX_PICTURES:
        turns = [turns[round(i * (len(turns) - 1) / (MAX_PICTURES - 1))] for i in range(MAX_PICTURES)]
    return [caption for _, caption in turns]
