"""The interval of a ratio of two means, of draws or of what a jackknife puts in their place."""

import math
import statistics

from scipy import stats

from evaluation.measures import ratio_interval
from evaluation.schema import Interval


def ratio_of_means(a: list[float], b: list[float]) -> Interval:
    """95 % interval of mean(a) / mean(b), both means above 0.

    A jackknife's values may lie below 0 though no distance does: one group of images then carries most of it. Single
    values have no logarithm there; that of a mean has the variance var(mean) / mean^2 (the delta method).
    """
    if min(*a, *b) > 0:
        return ratio_interval(a, b)
    variances = [statistics.variance(v) / len(v) / statistics.fmean(v) ** 2 for v in (a, b)]
    freedom = sum(variances) ** 2 / sum(v**2 / (len(x) - 1) for v, x in zip(variances, (a, b), strict=True))
    half = float(stats.t.ppf(0.975, freedom)) * math.sqrt(sum(variances))
    centre = math.log(statistics.fmean(a) / statistics.fmean(b))
    return Interval(low=math.exp(centre - half), high=math.exp(centre + half))
