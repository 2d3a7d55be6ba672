"""reports/index.html: one self-contained page, no script, no request to any host."""

import base64
import re
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from evaluation.report.charts import series_chart
from evaluation.report.quality import Figure, point, quality_figures
from evaluation.report.table import STUDENT, cells, extractors, sampler_name, summary_table
from evaluation.statistics.intervals import GROUPS as JACKKNIFE_GROUPS

TIMES = "\N{MULTIPLICATION SIGN}"
LINEAGE = re.compile(r"<!-- lineage -->.*?<!-- /lineage -->", re.DOTALL)
GROUPED = ("FD ", "FD\N{INFINITY} ", "KID ", "precision ", "recall ", "density ", "coverage ")
MEMORY = "of held-out images' distance to the nearest training image"
TURN = re.compile(r"\bturn\s+(\d[\d,]*)|\b(\d[\d,]*)\s+(?:generator )?turns?\b", re.IGNORECASE)
FILM = 12  # pictures of the training that the page shows
GROUPS = {
    "Gradient norms": r"grad",
    "Learning rates": r"(^|_)lr(_|$)",
    "Validation score": r"valid|score|(^|_)fd(_|$)",
    "Losses": r"loss|total|(^|_)(dm|critic|generator|denoising|regression|gan|adversarial)$",
    "Images: mean and standard deviation": r"(^|_)(mean|std)(_|$)",
}


@dataclass(frozen=True)
class ReportInputs:
    """What the page is made of; captions that name a turn ("turn 100", "after 100 turns") are the film of training."""

    title: str
    metrics: dict[str, Any]
    timing: dict[str, Any]
    losses: pd.DataFrame
    pictures: dict[str, bytes]
    facts: dict[str, str]


@dataclass(frozen=True)
class Card:
    """A headline figure with its plain words; `tone` colours it: good, even or bad."""

    value: str
    label: str
    words: str
    tone: str


@dataclass(frozen=True)
class Picture:
    caption: str
    src: Markup


def ratio_card(metrics: dict[str, Any], extractor: str) -> Card:
    """Student / best teacher; better or worse only where the interval of the ratio leaves 1 out."""
    best = metrics["best_teacher"][extractor]
    ratio = metrics["ratio"]["fd"][extractor]
    student = point(STUDENT, 1, metrics["student"], extractor)
    teacher = point(best, 1, metrics["teachers"][best], extractor)
    interval = metrics["ratio"]["interval"][extractor]
    percent = f"{abs(ratio - 1):.0%}".replace("%", " %")
    if interval["low"] <= 1 <= interval["high"]:
        tone, words = "even", "No difference seen: the interval holds 1."
    elif ratio < 1:
        tone, words = "good", f"The student is closer to the real images by {percent}."
    else:
        tone, words = "bad", f"The student is farther from the real images by {percent}."
    words += f" 95 % interval {interval['low']:.2f} to {interval['high']:.2f}."
    passes = metrics["teachers"][best]["nfe"]
    words += f" Fréchet distance {student.y:.3g}, the teacher's {teacher.y:.3g} at {passes} passes."
    return Card(f"{ratio:.2f}", f"of the best teacher's distance, {extractor} features", words, tone)


def speed_card(metrics: dict[str, Any], timing: dict[str, Any]) -> Card | None:
    """How many times faster than the teacher's best sampler."""
    speedup = timing.get("speedup", {})
    best = [name for name in metrics["best_teacher"].values() if name in speedup]
    if not best:
        return None
    others = ", ".join(f"{sampler_name(n)}: {speedup[n]:.0f} {TIMES}" for n in sorted(speedup, key=speedup.__getitem__))
    seconds = timing["student"]["seconds_per_image"]
    words = f"{seconds * 1000:.3g} ms an image in batches of {timing['batch_size']}; at most "
    words += f"{timing['images_per_second']:,.0f} images a second, in batches of {timing['best_batch']}. "
    words += f"Against each sampler: {others}."
    tone = "good" if speedup[best[0]] > 1 else "bad"
    return Card(f"{speedup[best[0]]:.0f} {TIMES}", f"as fast as the best teacher, {sampler_name(best[0])}", words, tone)


def clip_card(metrics: dict[str, Any]) -> Card | None:
    """Do the images show what was asked for, measured against real ones; nothing without conditions."""
    student, real = metrics["student"]["clip_score"], metrics["real"]["clip_score"]
    if student is None or real is None:
        return None
    words = f"CLIP score {student:.2f}; real held-out images have {real:.2f}."
    share = student / real if real > 0 else 0.0
    return Card(f"{share:.1%}".replace("%", " %"), "of the CLIP score of real images", words, "even")


def memory_card(metrics: dict[str, Any]) -> Card:
    """Does the student repeat its training images: nearness to them against that of held-out ones."""
    nearest = metrics["student"]["nearest"]["evaluator"]
    closer = f"{nearest['closer']:.1%}".replace("%", " %")
    words = (
        f"{closer} of its images lie nearer to a training image than 1 % of held-out ones do; the median distance is "
        f"{nearest['median']:.3g}, that of held-out images {nearest['held_out']:.3g}."
    )
    tone = "bad" if nearest["closer"] > 0.1 else "even"
    return Card(f"{nearest['median'] / nearest['held_out']:.2f}", MEMORY, words, tone)


def class_rows(metrics: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """Each class: student and best teacher by each measure; empty without classes."""
    teacher = metrics["teachers"][metrics["best_teacher"]["classifier"]]["classes"]
    student = metrics["student"]["classes"]
    kinds = ("accuracy", "coverage", "diversity")
    return [
        (name, [f"{side[name][kind]:.3f}" for kind in kinds for side in (student, teacher)])
        for name in student
        if name in teacher
    ]


def group_columns(losses: pd.DataFrame) -> dict[str, list[str]]:
    """Columns that share a plot, by name; one that no group knows gets a plot of its own.

    Counters, empty columns, repetitions (a total of one loss) and groups that never change get none.
    """
    groups: dict[str, list[str]] = {title: [] for title in ("Losses", *GROUPS)}
    for column in map(str, losses.select_dtypes("number").columns):
        title = next((t for t, pattern in GROUPS.items() if re.search(pattern, column.lower())), column)
        known = np.isfinite(losses[column].to_numpy(float)).any()
        repeated = any(losses[column].equals(losses[other]) for other in groups.get(title, []))
        if column not in ("turn", "step") and known and not repeated:
            groups.setdefault(title, []).append(column)
    return {title: columns for title, columns in groups.items() if any(losses[c].nunique() > 1 for c in columns)}


def training_figures(losses: pd.DataFrame) -> list[Figure]:
    """One plot per group of columns."""
    if "turn" not in losses or losses.empty:
        return []
    figures = []
    for title, columns in group_columns(losses).items():
        last = ", ".join(f"{c} ends at {losses[c].dropna().iloc[-1]:.3g}" for c in columns)
        figures.append(Figure(title, Markup(series_chart(losses, columns, f"{title} during training: {last}."))))
    return figures


def png_source(data: bytes) -> Markup:
    """A PNG as the source of an <img>, inside the page."""
    return Markup("data:image/png;base64," + base64.b64encode(data).decode())


def _turn(caption: str) -> int | None:
    found = TURN.search(caption)
    return int((found.group(1) or found.group(2)).replace(",", "")) if found else None


def spaced(items: list[tuple[int, str]], most: int) -> list[tuple[int, str]]:
    """At most so many, as evenly spread as can be, the first and the last among them."""
    if len(items) <= most:
        return items
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def table_head(columns: list[str]) -> list[tuple[str, int, list[str]]]:
    """Neighbours of one kind under one heading: (FD, 2, [clip, classifier]); a column alone has no second line."""
    kinds = [c.partition(" ") if c.startswith(GROUPED) else (c, "", "") for c in columns]
    starts = [i for i, k in enumerate(kinds) if i == 0 or k[0] != kinds[i - 1][0]]
    spans = list(pairwise([*starts, len(kinds)]))
    return [(kinds[a][0], b - a, [k[2] for k in kinds[a:b]]) for a, b in spans]


def page(template: str, **values: Any) -> str:
    """A template of this folder, filled; a name that is missing is an error."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)


def render_report(inputs: ReportInputs) -> str:
    """The whole page; a panel without data is left out."""
    metrics, timing = inputs.metrics, inputs.timing
    text = cells(summary_table(metrics, timing))
    cards = [*(ratio_card(metrics, e) for e in extractors(metrics)), speed_card(metrics, timing), clip_card(metrics)]
    cards.append(memory_card(metrics))
    film = spaced(sorted((turn, c) for c in inputs.pictures if (turn := _turn(c)) is not None), FILM)
    return page(
        "report.html.j2",
        title=inputs.title,
        metrics=metrics,
        cards=[card for card in cards if card],
        head=table_head(list(text.columns)),
        rows=list(zip(text.index, text.to_numpy().tolist(), strict=True)),
        classes=class_rows(metrics),
        skipped=metrics["judged"]["skipped"],
        taken_over=[sampler_name(name) for name in metrics.get("taken_over", [])],
        groups=JACKKNIFE_GROUPS,
        quality=quality_figures(metrics, timing),
        training=training_figures(inputs.losses),
        samples=[Picture(c, png_source(data)) for c, data in inputs.pictures.items() if _turn(c) is None],
        film=[Picture(c, png_source(inputs.pictures[c])) for _, c in film],
        facts=inputs.facts,
        host=timing.get("host", {}),
    )


def add_lineage(html: str, facts: dict[str, str]) -> str:
    """Fill the place kept for where the result came from; a second call replaces the first one's facts."""
    if not LINEAGE.search(html):
        raise ValueError("no mark <!-- lineage --> in the report: was it made by evaluation.report.page?")
    rows = "".join(f"<tr><th scope=row>{escape(k)}</th><td>{escape(str(v))}</td></tr>\n" for k, v in facts.items())
    section = f'<section id="lineage">\n<h2>Lineage</h2>\n<table class="facts">\n{rows}</table>\n</section>\n'
    return LINEAGE.sub(lambda _: f"<!-- lineage -->\n{section}<!-- /lineage -->", html)
