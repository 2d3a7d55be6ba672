"""The line above a table of the workspace's result, with the commit and the date."""

import time
from pathlib import Path

import pandas as pd

from dmd.config import Params
from evaluation.metrics.measures import MEASURES
from evaluation.metrics.schema import Metrics
from evaluation.report.caption import Subject, describe_table
from flows.registry.result import LOSSES
from flows.runtime.git import git


def describe_result(root: Path, params: Params, metrics: Metrics, headline: bool = False) -> str:
    """Sentences for a table of the result; headline: the table shows the headline measures only."""
    commit = git(root, "rev-parse", "--short", "HEAD") or "unknown"
    subject = Subject(params.data.source, params.method.name, commit, time.strftime("%Y-%m-%d"))
    measures = [m for m in MEASURES.values() if m.headline or not headline]
    return describe_table(subject, metrics, pd.read_csv(root / LOSSES), measures)
