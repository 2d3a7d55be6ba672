"""The line above a table of measures: data, method, training cost, extractors, counts, directions, commit, date."""

from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd

from evaluation.metrics.measures import Measure
from evaluation.metrics.schema import Metrics
from evaluation.report.table import list_extractors


@dataclass(frozen=True)
class Subject:
    """The run that figures are of.

    Outputs of a stage must not depend on commit and date, which are empty there.
    """

    data: str  # params data.source
    method: str  # params method.name
    commit: str = ""
    date: str = ""


def describe_training(losses: pd.DataFrame) -> str:
    """Training cost by the training log: the generator turns of each phase, and all steps."""
    if "turn" not in losses or losses.empty:
        return "unknown"
    phases = losses["phase"] if "phase" in losses else pd.Series([""] * len(losses))
    turns = [f"{count:,} ({name})".removesuffix(" ()") for name, count in phases.value_counts(sort=False).items()]
    steps = f"; steps: {int(max(losses['step'].tolist())):,}" if "step" in losses else ""
    return f"generator turns: {', '.join(turns)}{steps}"


def describe_table(subject: Subject, metrics: Metrics, losses: pd.DataFrame, measures: Iterable[Measure]) -> str:
    """Sentences for a table of a run that shows these measures."""
    student, judges = metrics.student, [*list_extractors(metrics), *metrics.provenance.judges]
    sentences = [
        f"Data: {subject.data}",
        f"Method: {subject.method}",
        f"Training cost: {describe_training(losses)}",
        f"Judges: {', '.join(k + metrics.ratio.mark(k) for k in judges)}",
        f"Each row of a generator is of {student.replicates} x {student.samples:,} images, against "
        f"{metrics.provenance.reference_images:,} training images. {describe_directions(measures)}",
    ]
    return ". ".join(sentences) + (f" Commit {subject.commit}, {subject.date}." if subject.commit else "")


def describe_directions(measures: Iterable[Measure]) -> str:
    """A sentence for each direction, with the measures that are better in it."""
    labels: dict[str, list[str]] = {}
    for measure in measures:
        labels.setdefault(measure.better, []).append(measure.label)
    return " ".join(f"{better.capitalize()} is better: {', '.join(names)}." for better, names in labels.items())
