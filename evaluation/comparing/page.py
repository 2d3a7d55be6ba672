"""The page of a comparison."""

import pandas as pd

from evaluation.comparing.candidates import Candidate
from evaluation.comparing.differences import describe_marks, tabulate
from evaluation.metrics.measures import list_compared
from evaluation.report.caption import describe_directions
from evaluation.report.html import embed_png, render_template
from evaluation.report.table import format_number


def render_comparison(candidates: list[Candidate], differences: pd.DataFrame, subject: str) -> str:
    """The page of a comparison. subject: the data, and the date."""
    table, measures = tabulate(candidates), {m.name: m for m in list_compared()}
    decimals = [measures[m].decimals if (m := str(c).partition(" ")[0]) in measures else 0 for c in table.columns]
    return render_template(
        "compare.html.j2",
        columns=list(table.index),  # a column for each generator, since there are many measures
        rows=[
            (title, [format_number(value, places) for value in table[title]])
            for title, places in zip(table.columns, decimals, strict=True)
        ],
        differences=differences.to_dict("records"),
        pictures=[(c.name, c.sha256, embed_png(c.picture)) for c in candidates],
        same="noise and labels" if any(c.measures.values("clip_score") for c in candidates) else "noise",
        directions=describe_directions(list_compared()),
        marks=describe_marks(candidates),
        subject=subject,
        first=candidates[0].name,
        samples=candidates[0].measures.samples,
        replicates=candidates[0].measures.replicates,
    )
