"""The text that an ablation prints at its end: table of each member and of the rows, page, and next commands."""

import textwrap
from pathlib import Path

from evaluation.metrics.schema import parse_model
from evaluation.report.table import format_table as format_run
from evaluation.report.table import summary_table
from evaluation.timing.schema import Timing
from flows.ablation import experiment
from flows.ablation.comparison import (
    FD_RATIO,
    RowSummary,
    comparison_path,
    describe_table,
    format_table,
    load_commit,
    load_comparison,
)
from flows.ablation.plan import Member, Plan
from flows.pipeline.experiments import fetch_generator
from flows.pipeline.summary import WIDTH, list_next_steps
from flows.registry.result import TIMING
from flows.registry.store import shown_uri


def summarize(root: Path, plan: Plan) -> str:
    """Return the text for an ablation whose comparison is written; members without a result are left out."""
    rows, plan = load_comparison(root, plan.name), plan.at(load_commit(root, plan.name))  # that of the flow
    lines = [text for member in plan.members if (text := _describe_member(root, member))]
    about = f"Mean ± standard deviation over seeds. {describe_table(root, plan, rows)}"
    lines += [format_table(rows), "", *textwrap.wrap(about, WIDTH), ""]
    lines.append(f"report:     {comparison_path(root, plan.name).with_suffix('.html')}")
    uri = shown_uri(root)
    if best := _find_best(plan, rows):
        lines.append(f"generator:  in DVC's cache: {fetch_generator(best.experiment)}")
    steps = list_next_steps(best.experiment if best else "NAME", uri)
    return "\n".join([*lines, f"MLflow:     {uri}, run {plan.name}", "", "next:", *(f"  {step}" for step in steps)])


def _describe_member(root: Path, member: Member) -> str:
    """The table of teacher and student of a member, and the ratio; empty without a result."""
    metrics, timing = experiment.load_metrics(root, member), experiment.read(root, member, TIMING)
    if metrics is None:
        return ""
    seconds = parse_model(Timing, timing, f"{TIMING} of {member.experiment}") if timing else None
    table = format_run(summary_table(metrics, seconds))
    return f"{member.experiment}:\n{table}\nFD, student / best teacher: {metrics.ratio}\n"


def _find_best(plan: Plan, rows: list[RowSummary]) -> Member | None:
    """The first member with a result in the row with the lowest FD ratio; None without any result."""
    ranked = sorted((row for row in rows if FD_RATIO in row.measures), key=lambda row: row.measures[FD_RATIO].mean)
    members = [m for row in ranked[:1] for m in plan.members if m.row == row.name and m.seed in row.seeds]
    return members[0] if members else None
