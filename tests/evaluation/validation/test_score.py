"""The score of a validation: free of bias, with a spread that is its noise, and equal weights of the judges."""

from statistics import fmean, stdev

import pytest
import torch
from torch import Tensor

from dmd.distillation.selection import Validation, is_as_good
from evaluation.statistics.frechet import Gaussian, frechet_distance
from evaluation.validation.score import Judge, combine

DIMENSIONS, DRAWS = 12, 5
TRUE = 0.3**2  # distance of two normal distributions with means 0 and 0.3 and covariance 1, as a share of the variance


def features(n: int, shift: float, seed: int) -> Tensor:
    """Features [n, DIMENSIONS] of a normal distribution with covariance 1 and every mean at `shift`."""
    return torch.randn(n, DIMENSIONS, generator=torch.Generator().manual_seed(seed)) + shift


def validate(generated: int, real: int, seed: int, shift: float = 0.3) -> list[float]:
    """The pseudo-values of a validation with these numbers of images, on fresh images for each seed."""
    judge = Judge.fit(features(real, 0.0, 1000 * seed), DRAWS)
    return judge.distances([features(generated // DRAWS, shift, 1000 * seed + 1 + i) for i in range(DRAWS)])


@pytest.mark.parametrize(("generated", "real"), [(100, 100), (400, 100), (100, 400)])
def test_the_distance_depends_on_neither_number_of_images(generated: int, real: int) -> None:
    """Over 60 validations, the mean is within three standard errors of the truth; the plain distance is far above."""
    values = [fmean(validate(generated, real, seed)) for seed in range(60)]
    assert abs(fmean(values) - TRUE) < 3 * stdev(values) / 60**0.5
    plain = frechet_distance(Gaussian.fit(features(generated, 0.3, 1)), Gaussian.fit(features(real, 0.0, 0)))
    assert plain / DIMENSIONS > 1.5 * TRUE


def test_the_spread_over_the_draws_is_that_of_repeated_validations() -> None:
    """The standard error from one validation agrees with the deviation over 60, real images included."""
    rows = [Validation(validate(200, 60, seed), {}).row() for seed in range(60)]
    assert fmean(row["validation_error"] for row in rows) == pytest.approx(
        stdev(row["validation_score"] for row in rows), rel=0.3
    )


def test_equal_draws_make_differences_of_two_generators_far_less_noisy() -> None:
    """The second generator's images are those of the first, moved a little further from the real ones."""
    judge = Judge.fit(features(60, 0.0, 0), DRAWS)
    near = [features(40, 0.3, 1 + i) for i in range(DRAWS)]
    near_scores, far_scores = (judge.distances([x + shift for x in near]) for shift in (0.0, 0.05))
    assert stdev(far_scores) / DRAWS**0.5 > fmean(far_scores) - fmean(near_scores)  # lost in the noise of the scores
    assert not is_as_good(far_scores, near_scores, 2.0) and is_as_good(near_scores, far_scores, 0.0)


def test_the_unit_of_a_judges_features_has_no_effect() -> None:
    real, generated = features(60, 0.0, 0), [features(40, 0.3, 1 + i) for i in range(DRAWS)]
    small = Judge.fit(real, DRAWS).distances(generated)
    large = Judge.fit(1000 * real, DRAWS).distances([1000 * x for x in generated])
    assert large == pytest.approx(small, rel=1e-5)


def test_the_score_is_the_mean_over_the_judges_draw_by_draw() -> None:
    assert combine({"a": [1.0, 2.0], "b": [3.0, -4.0]}) == [2.0, -1.0]
