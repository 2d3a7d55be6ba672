"""The figures of a result under their names in MLflow: headline on top, others in groups, constants as parameters.

MLflow's pages list metrics without a "/" first, and show those with one in a group for each word before it.
"""

import hashlib
import re
from collections.abc import Iterator
from typing import Any

from evaluation.metrics.files import split
from evaluation.metrics.schema import Metrics
from evaluation.timing.schema import Timing

NAME_LENGTH = 60  # characters of a key in the name of a metric; MLflow takes 250 in all
# A figure whose last key is one of these is the same for every training. It is a parameter: its chart would be flat.
CONSTANT = ("nfe", "samples", "draws", "seed", "gflops_per_image", "batch_size", "repeats", "parameters", "threads")
CONSTANT_GROUPS = ("judged", "best_teacher")  # settings of the evaluation
ON_TOP = ("ratio", "student", "training")  # groups of the headline whose figures stand on top

Keys = tuple[str, ...]  # keys of a figure, from the outermost one
Leaf = tuple[Keys, Any]


def list_metrics(metrics: Metrics, timing: Timing | None = None) -> dict[str, float]:
    """Numbers that differ between generators, by their names in MLflow."""
    content = metrics.model_dump()
    top = {path for path, _ in _leaves(split(content)[0]) if path[0] in ON_TOP and "interval" not in path}
    numbers = [(path, value) for path, value in _all_leaves(content, timing) if _is_number(value)]
    return {metric_name(path, path not in top): float(value) for path, value in numbers if not _is_constant(path)}


def list_constants(metrics: Metrics, timing: Timing | None = None) -> dict[str, str]:
    """Settings of the evaluation by the dotted keys of their files, such as student.nfe or best_teacher.classifier."""
    leaves = [leaf for leaf in _all_leaves(metrics.model_dump(), timing) if _is_constant(leaf[0])]
    return {metric_name(path, grouped=False): str(value) for path, value in leaves}


def judge_tags(metrics: Metrics) -> dict[str, str]:
    """A tag judge.EXTRACTOR for each extractor with a mark: seen in training, or selects."""
    return {f"judge.{_safe_part(name)}": marks for name, marks in metrics.ratio.marks().items()}


def metric_name(path: Keys, grouped: bool) -> str:
    """Return a name that MLflow accepts, from keys that may be words of a user, such as class names.

    grouped: the first key is the group, GROUP/REST. A character that MLflow refuses, and "/" in a word, become "_", and
    a hash of the key keeps different keys apart.
    """
    first, *rest = map(_safe_part, path)
    return f"{first}/{'.'.join(rest)}" if grouped and rest else ".".join((first, *rest))


def _safe_part(part: str) -> str:
    safe = re.sub(r"[^\w.\- :]", "_", part)[:NAME_LENGTH].strip()
    return safe if safe == part else f"{safe}_{hashlib.sha256(part.encode()).hexdigest()[:6]}"


def _all_leaves(content: dict[str, Any], timing: Timing | None) -> Iterator[Leaf]:
    yield from _leaves(content)
    if timing:
        yield from _leaves({"timing": timing.model_dump()})


def _leaves(tree: Any, path: Keys = ()) -> Iterator[Leaf]:
    """Yield the values of nested dicts, each with its keys."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from _leaves(value, (*path, str(key)))
    else:
        yield path, tree


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_constant(path: Keys) -> bool:
    return path[-1] in CONSTANT or path[0] in CONSTANT_GROUPS
