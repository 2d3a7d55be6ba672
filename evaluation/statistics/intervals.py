"""Confidence intervals of a mean and of a ratio of two means, and the jackknife for a single replicate."""

import math
import statistics

from pydantic import BaseModel, ConfigDict

CONFIDENCE = 0.95
GROUPS = 10  # groups of the jackknife; evaluation.metrics.pairwise.group_of divides the images among them


class Interval(BaseModel):
    """95 % confidence interval."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    low: float
    high: float

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2


def mean_interval(values: list[float]) -> Interval:
    """Interval of the mean of at least two independent values, by Student's t."""
    half = _t_quantile(len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    mean = statistics.fmean(values)
    return Interval(low=mean - half, high=mean + half)


def ratio_interval(a: list[float], b: list[float]) -> Interval:
    """Interval of mean(a) / mean(b) for independent values with positive means, by Welch's t on log(mean).

    The delta method gives the variance of log(mean): var(mean) / mean^2. The logarithms are taken of the means, not of
    the values, because jackknife values may be negative even where the measure is positive.
    """
    variances = [statistics.variance(v) / len(v) / statistics.fmean(v) ** 2 for v in (a, b)]
    centre = math.log(statistics.fmean(a) / statistics.fmean(b))
    if sum(variances) == 0:
        return Interval(low=math.exp(centre), high=math.exp(centre))
    freedom = sum(variances) ** 2 / sum(v**2 / (len(x) - 1) for v, x in zip(variances, (a, b), strict=True))
    half = _t_quantile(freedom) * math.sqrt(sum(variances))
    return Interval(low=math.exp(centre - half), high=math.exp(centre + half))


def jackknife(whole: float, parts: list[float]) -> list[float]:
    """Pseudo-values of the grouped jackknife, one for each group; they take the place of replicates.

    whole: the measure theta of all images. parts: theta_g without each of the G groups. Returns
    theta + (G - 1) (mean(theta_g) - theta_g): Tukey's pseudo-values, shifted so that their mean is theta. The standard
    error of their mean is the jackknife's. A bootstrap is no alternative: it repeats images, and a Fréchet distance
    grows with repeated images.
    """
    return [whole + (len(parts) - 1) * (sum(parts) / len(parts) - part) for part in parts]


def _t_quantile(freedom: float) -> float:
    """Quantile of Student's t that leaves half of 1 - CONFIDENCE above it."""
    from scipy.special import stdtrit  # slow to import, and a program that only reads intervals does not need it

    return float(stdtrit(freedom, (1 + CONFIDENCE) / 2))
