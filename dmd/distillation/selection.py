"""Selection of the generator that a run keeps: a validation's scores, and the comparison of two candidates."""

from collections.abc import Sequence
from statistics import fmean, stdev
from typing import NamedTuple


class Validation(NamedTuple):
    """The result of one validation of a generator."""

    scores: list[float]  # lower is better; one for each of two or more draws, whose noise is equal at every validation
    numbers: dict[str, float]  # further numbers for the row of the turn

    def row(self) -> dict[str, float]:
        """The numbers for the row of the turn: the score, its standard error over the draws, and the further ones."""
        return {"validation_score": fmean(self.scores), "validation_error": standard_error(self.scores), **self.numbers}


def standard_error(values: Sequence[float]) -> float:
    """Standard error of the mean of at least two independent values."""
    return stdev(values) / len(values) ** 0.5


def is_as_good(scores: Sequence[float], lowest: Sequence[float], tolerance: float) -> bool:
    """Whether `scores` exceed `lowest` on average by at most `tolerance` standard errors of the difference.

    Both hold one score for each draw. Equal noise makes the draws pairs: the noise that both generators share cancels
    in the differences, whose spread is what remains. Within it, the later of two generators is the one to keep.
    """
    differences = [score - other for score, other in zip(scores, lowest, strict=True)]
    return fmean(differences) <= tolerance * standard_error(differences)
