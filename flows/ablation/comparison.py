"""Members of an ablation side by side: mean and standard deviation over seeds, as json and as a Markdown table."""

import io
import json
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from dmd.storage.files import write_text
from evaluation.metrics.measures import MEASURES, list_compared
from evaluation.metrics.schema import Metrics
from flows.ablation import experiment
from flows.ablation.plan import Ablation, Member, Plan
from flows.pipeline.changes import Value
from flows.registry.result import LOSSES
from flows.runtime.git import git

FD_RATIO = "fd_ratio"  # FD of the student over FD of the teacher's best sampler; rows are ranked by it
UNSEEN = "fd_ratio_unseen"  # mean of the same over extractors without a mark
# Columns of the table; the json has every measure.
COLUMNS = (FD_RATIO, *(m.name for m in MEASURES.values() if m.headline and m.name != "fd"))
# Columns of losses.csv, with their titles. If the generator drifts, its pixels differ from those of the data.
PIXELS = {
    "generator_x_mean": "pixel mean",
    "generator_x_std": "pixel std",
    "generator_real_mean": "data pixel mean",
    "generator_real_std": "data pixel std",
}
TURNS = "generator turns"  # measure of the training cost
LAST_TURNS = 50  # generator turns that pixel statistics are averaged over, since one batch is too noisy

Values = dict[str, float]


class Spread(NamedTuple):
    """Mean and standard deviation of a sample; None for a single value, which has no standard deviation."""

    mean: float
    std: float | None

    @property
    def interval(self) -> tuple[float, float]:
        """Mean minus and plus the standard deviation; the mean alone if there is none."""
        return self.mean - (self.std or 0.0), self.mean + (self.std or 0.0)


@dataclass(frozen=True)
class RowSummary:
    """A row of the comparison."""

    name: str
    changes: Mapping[str, Value]
    seeds: list[int]  # seeds with a result
    failed: list[int]  # seeds without a result
    measures: dict[str, Spread]

    def to_dict(self) -> dict[str, Any]:
        """The row in reports/ablations/NAME.json."""
        spreads = {name: spread._asdict() for name, spread in self.measures.items()}
        own = {"name": self.name, "changes": dict(self.changes), "seeds": self.seeds, "failed": self.failed}
        return own | spreads

    @classmethod
    def from_dict(cls, row: dict[str, Any]) -> "RowSummary":
        """Inverse of `to_dict`."""
        own = {key: row[key] for key in ("name", "changes", "seeds", "failed")}
        return cls(**own, measures={key: Spread(**value) for key, value in row.items() if key not in own})


def load_measures(root: Path, member: Member) -> Values | None:
    """Measures of a member; None if its experiment does not exist."""
    metrics = experiment.load_metrics(root, member)
    if metrics is None:
        return None
    losses = experiment.read(root, member, LOSSES)
    log = pd.read_csv(io.BytesIO(losses)) if losses else pd.DataFrame()
    return headline(metrics) | training_cost(log) | pixel_statistics(log)


def training_cost(losses: pd.DataFrame) -> Values:
    """Number of generator turns of all phases, by the training log."""
    return {TURNS: float(max(losses["turn"].tolist()))} if "turn" in losses and len(losses) else {}


def headline(metrics: Metrics) -> Values:
    """The student's measures in metrics.json: NAME.EXTRACTOR for each extractor, and their mean under NAME."""
    values: Values = {"nfe": metrics.student.nfe}
    measures = {m.name: metrics.student.values(m.name) for m in list_compared()}
    for name, by_extractor in ({FD_RATIO: metrics.ratio.fd} | measures).items():
        if by_extractor:
            values[name] = statistics.fmean(by_extractor.values())
            values |= {f"{name}.{extractor}": value for extractor, value in by_extractor.items() if extractor}
    if metrics.ratio.unseen is not None:
        values[UNSEEN] = metrics.ratio.unseen
    return values


def list_columns(rows: list[RowSummary]) -> list[str]:
    """Measures in the table of these rows: COLUMNS, and the unmarked mean and the training cost if a row has them."""
    first, last = ([name] if any(name in row.measures for row in rows) else [] for name in (UNSEEN, TURNS))
    return [FD_RATIO, *first, *COLUMNS[1:], *last]


def pixel_statistics(losses: pd.DataFrame) -> Values:
    """Mean and standard deviation of the pixels, in [-1, 1], in the last turns of the training log."""
    last = {name: losses[name].dropna().tail(LAST_TURNS) for name in PIXELS if name in losses}
    return {name: float(values.to_numpy().mean()) for name, values in last.items() if len(values)}


def mean_and_std(values: Iterable[float]) -> Spread:
    """Mean and sample standard deviation."""
    sample = list(values)
    return Spread(statistics.fmean(sample), statistics.stdev(sample) if len(sample) > 1 else None)


def summarize(ablation: Ablation, results: dict[Member, Values | None]) -> list[RowSummary]:
    """A summary for each row, in the order of the file, with the measures that all its seeds have."""
    rows = []
    for row in ablation.all_rows():
        members = {m: values for m, values in results.items() if m.row == row.name}
        by_seed = {m.seed: values for m, values in members.items() if values is not None}
        names = [name for name in next(iter(by_seed.values()), {}) if all(name in v for v in by_seed.values())]
        rows.append(
            RowSummary(
                name=row.name,
                changes=row.changes,
                seeds=sorted(by_seed),
                failed=sorted(m.seed for m, values in members.items() if values is None),
                measures={name: mean_and_std(values[name] for values in by_seed.values()) for name in names},
            )
        )
    return rows


def format_seeds(row: RowSummary) -> str:
    """Number of seeds with a result, and the seeds without one."""
    missing = ", ".join(map(str, row.failed))
    return f"{len(row.seeds)} (missing: {missing})" if missing else str(len(row.seeds))


def format_measure(row: RowSummary, measure: str) -> str:
    """Mean ± standard deviation, or the value of a single seed; a dash for a measure that the row does not have."""
    if spread := row.measures.get(measure):
        if measure == TURNS:
            return f"{spread.mean:,.0f}"
        return f"{spread.mean:.3f}" + ("" if spread.std is None else f" ± {spread.std:.3f}")
    return "\N{EN DASH}" if row.seeds else "failed"


def format_table(rows: list[RowSummary]) -> str:
    """Markdown table: mean ± standard deviation over seeds."""
    columns = list_columns(rows)
    head = ["row", "seeds", *columns]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    lines += [f"| {' | '.join([r.name, format_seeds(r), *(format_measure(r, c) for c in columns)])} |" for r in rows]
    return "\n".join(lines)


def comparison_path(root: Path, name: str) -> Path:
    """reports/ablations/NAME.json; the table and the page lie beside it with the endings .md and .html."""
    return root / "reports" / "ablations" / f"{name}.json"


def load_comparison(root: Path, name: str) -> list[RowSummary]:
    """Rows of reports/ablations/NAME.json."""
    return [RowSummary.from_dict(row) for row in json.loads(comparison_path(root, name).read_text())["rows"]]


def load_commit(root: Path, name: str) -> str:
    """Commit in reports/ablations/NAME.json."""
    return json.loads(comparison_path(root, name).read_text())["commit"] or ""


def describe_table(root: Path, plan: Plan, rows: list[RowSummary]) -> str:
    """Sentences that say what a table of the rows shows: data, method, commit, extractors, counts and directions."""

    def values(group: str, key: str) -> str:
        name, value = f"{group}.{key}", plan.params[group][key]
        distinct = dict.fromkeys(str(r.changes.get(name, plan.ablation.base.get(name, value))) for r in rows)
        return ", ".join(f"{int(v):,}" if v.isdigit() else v for v in distinct)

    judges = dict.fromkeys(k.partition(".")[2] for row in rows for k in row.measures if k.startswith(f"{FD_RATIO}."))
    marks = collect_marks(root, plan)
    of_one = [
        f"{m} is by {MEASURES[m].judge}; "
        for m in COLUMNS[1:]
        if MEASURES[m].judge and any(m in r.measures for r in rows)
    ]
    directions = {FD_RATIO: "lower"} | {m.name: m.direction for m in MEASURES.values()}
    better = {d: ", ".join(c for c in COLUMNS if directions[c] == d) for d in ("lower", "higher")}
    return " ".join(
        [
            f"Data: {values('data', 'source')}. Method: {values('method', 'name')}.",
            f"Commit {git(root, 'log', '-1', '--format=%h of %cs', plan.commit) or 'unknown'}.",
            f"Judges: {', '.join(k + marks.get(k, '') for k in judges)}; {''.join(of_one)}other measures "
            "that name none are means over them.",
            f"Each figure of a seed is of {values('baseline', 'draws')} x {values('baseline', 'samples')} images.",
            f"Lower is better: {better['lower']}. Higher is better: {better['higher']}.",
        ]
    )


def collect_marks(root: Path, plan: Plan) -> dict[str, str]:
    """The marks of each extractor in the members, as `Ratio.mark` writes them."""
    ratios = [metrics.ratio for m in plan.members if (metrics := experiment.load_metrics(root, m))]
    return {k: mark for ratio in ratios for k in ratio.fd if (mark := ratio.mark(k))}


def write_comparison(root: Path, plan: Plan, rows: list[RowSummary]) -> list[Path]:
    """Write the json and the table; return their paths. Two equal runs write equal files."""
    content = {
        "name": plan.name,
        "description": plan.ablation.description,
        "commit": plan.commit or None,
        "rows": [row.to_dict() for row in rows],
    }
    path = comparison_path(root, plan.name)
    write_text(path, json.dumps(content, indent=2) + "\n")
    title = f"{plan.ablation.description}: mean ± standard deviation over seeds. {describe_table(root, plan, rows)}"
    write_text(path.with_suffix(".md"), f"{title}\n\n{format_table(rows)}\n")
    return [path, path.with_suffix(".md")]
