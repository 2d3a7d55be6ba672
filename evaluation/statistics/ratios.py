"""The interval of a ratio of two means, of draws or of what a jackknife puts in their place."""

import math
import statistics

from scipy import stats

from evaluation.metrics.schema import Interval


def ratio_interval(a: list[float], b: list[float]) -> Interval:
    """95 % interval of mean(a) / mean(b), of independent values with means above 0: Welch's t on the means' logarithms.

    The logarithm of a mean has the variance var(mean) / mean^2 (the delta method). Logarithms of the values themselves
    would not do: a jackknife's may lie near 0 or below, though no distance does.
    """
    variances = [statistics.variance(v) / len(v) / statistics.fmean(v) ** 2 for v in (a, b)]
    centre = math.log(statistics.fmean(a) / statistics.fmean(b))
    if sum(variances) == 0:
        return Interval(low=math.exp(centre), high=math.exp(centre))
    freedom = sum(variances) ** 2 / sum(v**2 / (len(x) - 1) for v, x in zip(variances, (a, b), strict=True))
    half = float(stats.t.ppf(0.975, freedom)) * math.sqrt(sum(variances))
    return Interval(low=math.exp(centre - half), high=math.exp(centre + half))
