"""Reads and writes the two files of a run's measures: metrics.json, the headline, and details.json, everything else.

No figure is in both, so that `dvc exp show` has one column for each. An older metrics.json holds everything by itself.
"""

import json
from pathlib import Path
from typing import Any

from dmd.errors import EvaluatorError
from dmd.storage.files import write_text
from dmd.yaml_files import parse_json
from evaluation.metrics.measures import MEASURES
from evaluation.metrics.schema import Metrics, dump_checked, parse_model

DETAILS = "details.json"
MOST_FIGURES = 60  # largest number of figures in metrics.json
HEADLINE = tuple(m.name for m in MEASURES.values() if m.headline)
OF_STUDENT = ("nfe", "samples", *HEADLINE)  # measures of the student in the headline
OF_TEACHER = ("fd", "recall")  # measures of each of the teacher's samplers in the headline, beside nfe

Content = dict[str, Any]


def write_metrics(metrics: Metrics, headline: Path, details: Path) -> None:
    """Write both files. Raises NumberError for a figure that is NaN or infinite."""
    for path, content in zip((headline, details), split(dump_checked(metrics, headline)), strict=True):
        write_text(path, json.dumps(content, indent=2, sort_keys=True) + "\n")


def read_metrics(path: Path) -> Metrics:
    """Read metrics.json with details.json beside it, if there is one. Raises EvaluatorError if they do not fit."""
    details = path.with_name(DETAILS)
    return parse_metrics(path.read_bytes(), details.read_bytes() if details.is_file() else None, str(path))


def parse_metrics(headline: bytes, details: bytes | None, source: str) -> Metrics:
    """Parse the texts of both files; details are None for a file that holds everything.

    Raises EvaluatorError, prefixed by `source`, if they are not of this kind, or if a figure is in both.
    """
    if details is None:
        return parse_model(Metrics, headline, source)
    where = f"{source}, or {DETAILS} beside it,"
    parts = [parse_json(text, where, EvaluatorError) for text in (headline, details)]
    if not all(isinstance(part, dict) for part in parts):
        raise EvaluatorError(f"{where} holds no JSON object; run `dvc repro`")
    if repeated := _join(parts[0], parts[1], ""):
        raise EvaluatorError(
            f"{source} and {DETAILS} beside it both hold {repeated}: they are of two runs; run `dvc repro`"
        )
    return parse_model(Metrics, json.dumps(parts[0]), source)


def split(content: Content) -> tuple[Content, Content]:
    """Divide the content of `Metrics` into the headline and everything else.

    The headline has the teacher's best sampler by each extractor. Further samplers are added, those with the fewest
    passes first, while it has at most MOST_FIGURES figures.
    """
    best, teachers, student = content["best_teacher"], content["teachers"], content["student"]
    extractors = {name: [k for k, sampler in best.items() if sampler == name] for name in teachers}
    head = {
        "best_teacher": best,
        "ratio": _pick(content["ratio"], ("fd", "unseen")),
        "student": _pick(student, OF_STUDENT) | {"interval": _pick(student["interval"], ("fd",))},
        "teachers": {name: _sampler(teachers[name], names) for name, names in extractors.items() if names},
    }
    if "training" in content:
        head["training"] = _pick(content["training"], ("turns", "images"))
    for name in sorted(teachers, key=lambda name: (not extractors[name], teachers[name]["nfe"])):
        more = head["teachers"] | {name: _sampler(teachers[name], list(best))}
        if count_figures(head | {"teachers": more}) > MOST_FIGURES:
            break
        head["teachers"] = more
    return head, _without(content, head)


def count_figures(content: Any) -> int:
    """The number of numbers in the content of a JSON file."""
    if isinstance(content, dict):
        return sum(map(count_figures, content.values()))
    return int(isinstance(content, int | float))


def _pick(content: Content, keys: tuple[str, ...]) -> Content:
    return {key: content[key] for key in keys if content.get(key) is not None}


def _sampler(measures: Content, extractors: list[str]) -> Content:
    """Network passes of a sampler, and its headline measures by these extractors."""
    by_extractor = {name: {k: measures[name][k] for k in extractors} for name in OF_TEACHER if name in measures}
    return {"nfe": measures["nfe"], **by_extractor}


def _without(content: Content, taken: Content) -> Content:
    """The content without the leaves of `taken`, and without groups that it leaves empty; empty groups are kept."""
    rest: Content = {}
    for key, value in content.items():
        if key not in taken:
            rest[key] = value
        elif isinstance(value, dict) and (below := _without(value, taken[key])):
            rest[key] = below
    return rest


def _join(content: Content, more: Content, where: str) -> str:
    """Add the leaves of `more` to the content in place; return the dotted key of the first leaf in both, or ""."""
    for key, value in more.items():
        own = content.setdefault(key, value)
        if own is value:
            continue
        name = f"{where}{key}"
        if not (isinstance(own, dict) and isinstance(value, dict)):
            return name
        if repeated := _join(own, value, f"{name}."):
            return repeated
    return ""
