"""Members of an ablation side by side: mean and spread over seeds, as json and as a table."""

import io
import json
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from dmd.storage.files import write_text
from flows.ablation import experiment
from flows.ablation.plan import Ablation, Member
from flows.registry.result import LOSSES, METRICS
from flows.runtime.roots import git

COLUMNS = ("fd_ratio", "clip_score", "precision", "recall")  # of the table; the json has every measure
# Of the log of training: the generator's images, and real ones beside them. A mean or spread that drifts off is seen.
PIXELS = ("generator_x_mean", "generator_x_std", "generator_real_mean", "generator_real_std")
LAST_TURNS = 50  # of the generator, over which those are averaged: a batch alone says little

Measures = dict[str, float]


def measured(root: Path, member: Member) -> Measures | None:
    """A member's numbers; None where its experiment is not there."""
    found = experiment.read(root, member, METRICS)
    if found is None:
        return None
    losses = experiment.read(root, member, LOSSES)
    return measures(json.loads(found)) | (pixels(pd.read_csv(io.BytesIO(losses))) if losses else {})


def measures(metrics: dict[str, Any]) -> Measures:
    """One member's numbers: those of each extractor, and their mean under the plain name."""
    student = metrics["student"]
    found = {name: student[name] for name in ("clip_score", "nfe") if student[name] is not None}
    by_extractor = {"fd_ratio": metrics["ratio"]["fd"], **{k: student[k] for k in ("fd", "kid", "precision", "recall")}}
    for name, values in by_extractor.items():
        if values:
            found[name] = statistics.fmean(values.values())
            found |= {f"{name}.{extractor}": value for extractor, value in values.items()}
    return found


def pixels(losses: pd.DataFrame) -> Measures:
    """Mean and standard deviation of the pixels, in [-1, 1], at the end of training."""
    known = {name: losses[name].dropna().tail(LAST_TURNS) for name in PIXELS if name in losses}
    return {name: float(values.to_numpy().mean()) for name, values in known.items() if len(values)}


def spread(values: Iterable[float]) -> dict[str, float]:
    """Mean and standard deviation (of the sample; 0 for a single value)."""
    listed = list(values)
    return {"mean": statistics.fmean(listed), "std": statistics.stdev(listed) if len(listed) > 1 else 0.0}


def compare(ablation: Ablation, results: dict[Member, Measures | None]) -> list[dict[str, Any]]:
    """A row per variant, in the order of the file; `failed` lists the seeds that have no result."""
    rows = []
    for variant in ablation.variants():
        mine = {m: found for m, found in results.items() if m.row == variant.name}
        done = {m.seed: found for m, found in mine.items() if found is not None}
        names = [name for name in next(iter(done.values()), {}) if all(name in d for d in done.values())]
        rows.append(
            {"name": variant.name, "changes": variant.changes, "seeds": sorted(done)}
            | {"failed": sorted(m.seed for m, found in mine.items() if found is None)}
            | {name: spread(d[name] for d in done.values()) for name in names}
        )
    return rows


def seeds(row: dict[str, Any]) -> str:
    """How many there are, and which are missing."""
    missing = ", ".join(map(str, row["failed"]))
    return f"{len(row['seeds'])} (missing: {missing})" if missing else str(len(row["seeds"]))


def cell(row: dict[str, Any], measure: str) -> str:
    """Mean ± standard deviation; a dash for a measure that the row does not have."""
    if measure in row:
        return f"{row[measure]['mean']:.3f} ± {row[measure]['std']:.3f}"
    return "\N{EN DASH}" if row["seeds"] else "failed"


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: mean ± standard deviation over seeds."""
    head = ["row", "seeds", *COLUMNS]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    lines += [f"| {' | '.join([row['name'], seeds(row), *(cell(row, c) for c in COLUMNS)])} |" for row in rows]
    return "\n".join(lines)


def report(root: Path, name: str) -> Path:
    """reports/ablations/NAME.json; the table and the page lie beside it, as .md and .html."""
    return root / "reports" / "ablations" / f"{name}.json"


def write_comparison(root: Path, name: str, ablation: Ablation, rows: list[dict[str, Any]]) -> list[Path]:
    """The json and the table; nothing in them differs between two equal runs."""
    about = {"name": name, "description": ablation.description, "commit": git(root, "rev-parse", "HEAD"), "rows": rows}
    path = report(root, name)
    write_text(path, json.dumps(about, indent=2) + "\n")
    words = f"{ablation.description}: mean ± standard deviation over seeds."
    write_text(path.with_suffix(".md"), f"{words}\n\n{table(rows)}\n")
    return [path, path.with_suffix(".md")]
