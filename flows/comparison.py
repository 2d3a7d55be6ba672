"""Members of an ablation side by side: mean and spread over seeds, as json and as a table."""

import statistics
from collections.abc import Iterable
from typing import Any

from flows.ablation import Ablation, Member

COLUMNS = ("fd_ratio", "clip_score", "precision", "recall")  # of the table; the json has every measure


def measures(metrics: dict[str, Any]) -> dict[str, float]:
    """One member's numbers: those of each extractor, and their mean under the plain name."""
    student = metrics["student"]
    found = {"clip_score": student["clip_score"], "nfe": student["nfe"]}
    by_extractor = {"fd_ratio": metrics["ratio"]["fd"], **{k: student[k] for k in ("fd", "kid", "precision", "recall")}}
    for name, values in by_extractor.items():
        if values:
            found[name] = statistics.fmean(values.values())
            found |= {f"{name}.{extractor}": value for extractor, value in values.items()}
    return found


def spread(values: Iterable[float]) -> dict[str, float]:
    """Mean and standard deviation (of the sample; 0 for a single value)."""
    listed = list(values)
    return {"mean": statistics.fmean(listed), "std": statistics.stdev(listed) if len(listed) > 1 else 0.0}


def compare(ablation: Ablation, results: dict[Member, dict[str, Any] | None]) -> list[dict[str, Any]]:
    """A row per variant, in the order of the file; `failed` lists the seeds that have no result."""
    rows = []
    for variant in ablation.variants():
        mine = {m: metrics for m, metrics in results.items() if m.row == variant.name}
        done = {m.seed: measures(metrics) for m, metrics in mine.items() if metrics is not None}
        names = list(next(iter(done.values()), {}))
        rows.append(
            {"name": variant.name, "changes": variant.changes, "seeds": sorted(done)}
            | {"failed": sorted(m.seed for m, metrics in mine.items() if metrics is None)}
            | {name: spread(d[name] for d in done.values()) for name in names}
        )
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: mean ± standard deviation over seeds."""
    head = ["row", "seeds", *COLUMNS]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for row in rows:
        cells = [f"{row[c]['mean']:.3f} ± {row[c]['std']:.3f}" if c in row else "failed" for c in COLUMNS]
        lines.append(f"| {row['name']} | {len(row['seeds'])} | {' | '.join(cells)} |")
    return "\n".join(lines)
