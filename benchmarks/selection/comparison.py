"""Compare validation measures: rank correlation with the final figures, and the loss from following each of them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from scipy.stats import spearmanr

from dmd.distillation.selection import is_as_good

TOLERANCES = (0.0, 1.0, 2.0)  # standard errors of the paired difference


@dataclass(frozen=True)
class Kept:
    """One kept generator with its figures."""

    run: str
    turn: int
    score: list[float]  # of each draw of the pipeline's own validation
    measures: dict[str, float]  # the other measures
    final: dict[str, float]  # Fréchet distance by each judge

    @property
    def log_final(self) -> float:
        """Mean over the judges of the logarithm of the final distance: judges differ in the scale of their features."""
        return fmean(math.log(value) for value in self.final.values())


Better = Callable[[Kept, Kept], bool]  # whether a later generator is as good as the lowest one


def compare(runs: Sequence[Sequence[Kept]], former_tolerance: float) -> dict[str, Any]:
    """Rank correlations of every measure, and for every rule the mean excess of the log final distance it selects.

    runs: the kept generators of each run, in order of their turns. The excess is that over the run's best generator:
    0.1 stands for a final distance that is 10 % larger.
    """
    measures: dict[str, Callable[[Kept], float]] = {
        "score": lambda kept: fmean(kept.score),
        **{name: (lambda kept, name=name: kept.measures[name]) for name in runs[0][0].measures},
    }
    every = [kept for run in runs for kept in run]
    rules: dict[str, Callable[[Sequence[Kept]], Kept]] = {
        "last generator": lambda run: run[-1],
        "former rule": lambda run: follow(run, measures["former"], _within(former_tolerance)),
        **{f"lowest {name}": (lambda run, value=value: min(run, key=value)) for name, value in measures.items()},
        **{
            f"score, tolerance {t:g}": (lambda run, t=t: follow(run, measures["score"], _paired(t))) for t in TOLERANCES
        },
    }
    return {
        "spearman": {
            name: {
                "all generators": correlate(every, value),
                "mean over runs": fmean(correlate(run, value) for run in runs),
                "last generators": correlate([run[-1] for run in runs], value),
            }
            for name, value in measures.items()
        },
        "excess": {
            name: fmean(rule(run).log_final - min(kept.log_final for kept in run) for run in runs)
            for name, rule in rules.items()
        },
    }


def correlate(kept: Sequence[Kept], value: Callable[[Kept], float]) -> float:
    """Spearman's rank correlation of a measure with the final figure."""
    result: Any = spearmanr([value(k) for k in kept], [k.log_final for k in kept])
    return float(result.statistic)


def follow(run: Sequence[Kept], value: Callable[[Kept], float], is_kept: Better) -> Kept:
    """The generator that a rule has at the end: the latest that was as good as the lowest before it."""
    selected = lowest = run[0]
    for kept in run[1:]:
        selected = kept if is_kept(kept, lowest) else selected
        lowest = min(lowest, kept, key=value)
    return selected


def _within(share: float) -> Better:
    return lambda kept, lowest: kept.measures["former"] <= lowest.measures["former"] * (1 + share)


def _paired(tolerance: float) -> Better:
    return lambda kept, lowest: is_as_good(kept.score, lowest.score, tolerance)
