"""The score of a validation: one number for all judges, with a value for each draw from which its noise is seen."""

import math
from statistics import fmean

import torch
from torch import Tensor

from evaluation.statistics.frechet import Gaussian, extrapolate_frechet
from evaluation.statistics.intervals import jackknife

FLOOR = 1e-6  # smallest distance, as a share of the variance of the real features: an extrapolation may fall below zero

Draws = list[dict[str, Tensor]]  # features [images, D] of each draw, by judge


def measure_draws(draws: Draws, references: dict[str, Gaussian]) -> tuple[list[float], dict[str, float]]:
    """The score of at least two draws, and FD-infinity of the images of all draws together, by each judge.

    The score is the geometric mean of these distances. It is returned as the jackknife's pseudo-values, one for each
    draw, whose mean is the score.
    """
    distances = _measure(draws, references)
    parts = [_measure(draws[:i] + draws[i + 1 :], references) for i in range(len(draws))]
    whole = geometric_mean(distances, references)
    return jackknife(whole, [geometric_mean(part, references) for part in parts]), distances


def geometric_mean(distances: dict[str, float], references: dict[str, Gaussian]) -> float:
    """Geometric mean over the judges: each counts by ratios of its distances, whatever the scale of its features."""
    floors = {judge: FLOOR * reference.cov.trace().item() for judge, reference in references.items()}
    return math.exp(fmean(math.log(max(distance, floors[judge])) for judge, distance in distances.items()))


def _measure(draws: Draws, references: dict[str, Gaussian]) -> dict[str, float]:
    return {
        judge: extrapolate_frechet(torch.cat([draw[judge] for draw in draws]), reference)
        for judge, reference in references.items()
    }
