"""The noise of a single draw: what its measures become when a part of its images is left out."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from evaluation.measures import Conditions
from evaluation.schema import Scores

GROUPS = 10
Judging = Callable[[dict[str, Tensor], Conditions | None], Scores]


def jackknife(features: dict[str, Tensor], conditions: Conditions | None, score: Judging) -> list[Scores]:
    """GROUPS values of each measure in the place of draws: their mean is the measure of all images, and the standard
    error of that mean is the grouped jackknife's. features [N, D] per extractor.

    theta + (G - 1) (mean of the theta without a group - theta without group g), Tukey's pseudo-values moved so that
    their mean is theta itself. A bootstrap would not do: it repeats images, and a Frechet distance grows with that.
    """
    whole = score(features, conditions)
    count = len(next(iter(features.values())))
    group = torch.arange(count) % GROUPS  # images are in the order of the data: each group gets of everything
    parts = []
    for g in range(GROUPS):
        kept = group != g
        left = None if conditions is None else conditions.only(kept)
        parts.append(score({k: v[kept] for k, v in features.items()}, left))
    return [_pseudo(whole, parts, g) for g in range(GROUPS)]


def _pseudo(whole: Scores, parts: list[Scores], g: int) -> Scores:
    """The pseudo-value of every single figure; what is by class or by neighbour has no interval, and stays whole."""
    values: dict[str, Any] = {}
    for name in Scores.model_fields:
        one = getattr(whole, name)
        if isinstance(one, float):
            values[name] = _moved(one, [getattr(p, name) for p in parts], g)
        elif one and all(isinstance(v, float) for v in one.values()):
            values[name] = {k: _moved(v, [getattr(p, name)[k] for p in parts], g) for k, v in one.items()}
    return whole.model_copy(update=values)


def _moved(whole: float, parts: list[float], g: int) -> float:
    return whole + (len(parts) - 1) * (sum(parts) / len(parts) - parts[g])
