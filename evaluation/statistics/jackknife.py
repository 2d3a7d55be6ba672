"""The noise of a single draw: what its measures become when a part of its images is left out."""

from typing import Any

from evaluation.metrics.schema import Scores

GROUPS = 10  # images are in the order of the data, and every tenth is of one group: each gets of everything


def jackknife(scores: list[Scores]) -> list[Scores]:
    """Values of each measure in the place of draws: their mean is the measure of all images, and the standard error of
    that mean is the grouped jackknife's. scores: of all images, then without each of the groups.

    theta + (G - 1) (mean of the theta without a group - theta without group g), Tukey's pseudo-values moved so that
    their mean is theta itself. A bootstrap would not do: it repeats images, and a Frechet distance grows with that.
    """
    whole, *parts = scores
    return [_pseudo(whole, parts, g) for g in range(len(parts))]


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
