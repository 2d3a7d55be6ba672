"""The interval of a ratio of two means, of draws or of what a jackknife puts in their place."""

import math
import statistics

from scipy import stats

from evaluation.schema import Interval


def ratio_interval(a: list[float], b: list[float]) -> Interval:
    """95 % interval of mean(a) / mean(b), of independent values with means above 0: Welch's t on their logarithms.

    A jackknife's values may lie below 0 though no distance does: one group of images then carries most of it. Single
    values have no logarithm there; that of a mean has the variance var(mean) / mean^2 (the delta method).
    """
    logarithms = min(*a, *b) > 0
    variances = [_variance_of_log(values, logarithms) for values in (a, b)]
    centre = math.log(statistics.fmean(a) / statistics.fmean(b))
    if sum(variances) == 0:
        return Interval(low=math.exp(centre), high=math.exp(centre))
    freedom = sum(variances) ** 2 / sum(v**2 / (len(x) - 1) for v, x in zip(variances, (a, b), strict=True))
    half = float(stats.t.ppf(0.975, freedom)) * math.sqrt(sum(variances))
    return Interval(low=math.exp(centre - half), high=math.exp(centre + half))


def _variance_of_log(values: list[float], logarithms: bool) -> float:
    """The variance of the logarithm of the values' mean."""
    if logarithms:
        return statistics.variance(math.log(v) for v in values) / len(values)
    return statistics.variance(values) / len(values) / statistics.fmean(values) ** 2
