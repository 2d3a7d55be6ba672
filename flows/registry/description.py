"""Descriptions of a result: of its run in MLflow, and the line above a table, with the commit and the date."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from dmd.config import Params
from evaluation.metrics.measures import MEASURES
from evaluation.metrics.schema import Metrics
from evaluation.report.caption import Subject, describe_table
from evaluation.report.table import sampler_title
from flows.registry.result import LOSSES, flatten
from flows.runtime.git import git

MOST_LISTED = 12  # largest number of changes that are listed; a preset has more, and its file lists them


class Change(NamedTuple):
    """A value of params.yaml before and after a change; None where the key is missing."""

    before: Any
    after: Any


def find_changes(root: Path, params: str, commit: str = "HEAD") -> dict[str, Change]:
    """The keys in which the text of a params.yaml differs from that of a commit, by default the last one."""
    before, after = (_flatten(text) for text in (git(root, "show", f"{commit}:params.yaml") or "", params))
    keys = dict.fromkeys([*after, *before])
    return {k: Change(before.get(k), after.get(k)) for k in keys if before.get(k) != after.get(k)}


def _flatten(text: str) -> dict[str, Any]:
    try:
        content = YAML(typ="safe").load(text)
    except (YAMLError, ValueError):  # of the last commit; since then the mistake has been corrected
        content = None
    return dict(flatten(content or {}))


def describe_run(changes: Mapping[str, Change], metrics: Metrics) -> str:
    """Return the description in Markdown: changes and outcome."""
    return f"**Changed:** {describe_changes(changes)}.\n\n**Outcome:** {describe_outcome(metrics)}"


def describe_changes(changes: Mapping[str, Change]) -> str:
    """Return each change of params.yaml with its former value, and the number of changes beyond MOST_LISTED."""
    listed = [f"`{key}` {c.after} (was {c.before})" for key, c in list(changes.items())[:MOST_LISTED]]
    more = len(changes) - MOST_LISTED
    return ", ".join(listed + ([f"and {more} more values"] if more > 0 else [])) or "nothing in params.yaml"


def describe_outcome(metrics: Metrics) -> str:
    """The student's Fréchet distance over that of the teacher's best sampler by each extractor, in a sentence."""
    passes = "1 network pass" if metrics.student.nfe == 1 else f"{metrics.student.nfe} network passes"
    parts = []
    for k, ratio in metrics.ratio.fd.items():
        interval, sampler = metrics.ratio.interval[k], sampler_title(metrics.best_teacher[k])
        bounds = f"({interval.low:.2f} to {interval.high:.2f})"
        parts.append(f"{ratio:.2f} {bounds} of that of {sampler} by {k}{metrics.ratio.mark(k)}")
    return f"with {passes}, the student's Fréchet distance is {'; '.join(parts)}. Lower is better."


def describe_result(root: Path, params: Params, metrics: Metrics, headline: bool = False) -> str:
    """Sentences for a table of the result; headline: the table shows the headline measures only."""
    commit = git(root, "rev-parse", "--short", "HEAD") or "unknown"
    subject = Subject(params.data.source, params.method.title, commit, time.strftime("%Y-%m-%d"))
    measures = [m for m in MEASURES.values() if m.headline or not headline]
    return describe_table(subject, metrics, pd.read_csv(root / LOSSES), measures)
