"""reports/index.html: the page of a run."""

from dataclasses import dataclass

import pandas as pd

from evaluation.metrics.measures import MEASURES
from evaluation.metrics.schema import Metrics
from evaluation.models.names import CLASSIFIER
from evaluation.report.caption import Subject, describe_table
from evaluation.report.cards import build_cards
from evaluation.report.html import Picture, embed_png, render_template
from evaluation.report.judges import headline_columns, headline_groups, measure_groups
from evaluation.report.quality import quality_figures
from evaluation.report.table import sampler_title
from evaluation.report.training import find_turn, select_training_pictures, training_figures
from evaluation.statistics.intervals import GROUPS as JACKKNIFE_GROUPS
from evaluation.timing.schema import Timing

CLASS_MEASURES = ("accuracy", "coverage", "diversity")


@dataclass(frozen=True)
class ReportInputs:
    """Contents of the page. Pictures whose captions name a turn ("after 100 turns") show the course of training."""

    metrics: Metrics
    timing: Timing | None
    losses: pd.DataFrame
    pictures: dict[str, bytes]
    facts: dict[str, str]
    subject: Subject
    title: str = "A teacher and its one-step student"


def render_report(inputs: ReportInputs) -> str:
    """HTML of the whole page; a panel without data is left out."""
    metrics, timing, pictures = inputs.metrics, inputs.timing, inputs.pictures
    measures = [m for m in MEASURES.values() if metrics.student.values(m.name)]
    return render_template(
        "report.html.j2",
        title=inputs.title,
        metrics=metrics,
        cards=build_cards(metrics, timing),
        columns=headline_columns(),
        groups=headline_groups(metrics, timing),
        measure_groups=measure_groups(metrics),
        measures=measures,
        subject=describe_table(inputs.subject, metrics, inputs.losses, measures),
        has_matched=MEASURES["fd_matched"] in measures,
        classes=class_rows(metrics),
        same="noise and labels" if metrics.student.values("clip_score") else "noise",  # it has a value for conditions
        taken_over=[sampler_title(name) for name in metrics.taken_over],
        jackknife_groups=JACKKNIFE_GROUPS,
        quality=quality_figures(metrics, timing),
        training=training_figures(inputs.losses),
        samples=[Picture(c, embed_png(data)) for c, data in pictures.items() if find_turn(c) is None],
        film=[Picture(c, embed_png(pictures[c])) for c in select_training_pictures(list(pictures))],
        facts=inputs.facts,
        host=timing and timing.host,
    )


def class_rows(metrics: Metrics) -> list[tuple[str, list[str]]]:
    """Each class with its measures, of the student and of the best teacher in turn; empty without classes."""
    student = metrics.student.classes
    teacher = metrics.teachers[metrics.best_teacher[CLASSIFIER]].classes if student else {}
    return [
        (name, [f"{getattr(side[name], measure):.3f}" for measure in CLASS_MEASURES for side in (student, teacher)])
        for name in student
        if name in teacher
    ]
