"""The jackknife's groups are random, so that they are independent of the prompts, which repeat in a fixed order."""

import statistics

import pytest
import torch
from torch import Tensor

from evaluation.metrics.pairwise import group_masks, group_of, shuffle
from evaluation.statistics.frechet import Gaussian, frechet_distance
from evaluation.statistics.intervals import GROUPS, jackknife, mean_interval

T = 2.262  # quantile of Student's t with nine degrees of freedom


@pytest.mark.parametrize(("n", "groups"), [(1000, 10), (37, 10), (5, 10), (12, 5), (7, 0)])
def test_groups_have_equal_sizes_in_every_run_of_the_shuffled_images(n: int, groups: int) -> None:
    group = group_of(n, groups)
    assert torch.equal(group, group_of(n, groups)) and group.max() < max(groups, 1)
    for run in (group, group[shuffle(n)][: n // 2], group[shuffle(n)][n // 2 :]):
        sizes = run.bincount(minlength=groups)
        assert sizes.max() - sizes.min() <= 1


@pytest.mark.parametrize("prompts", [10, 11, 20, 50])
def test_the_interval_is_that_of_other_noise_for_any_number_of_prompts(prompts: int) -> None:
    """With groups i % 10 the interval of ten prompts would be ten times as wide as that of eleven."""
    rng = torch.Generator().manual_seed(prompts)
    centres = 1.5 * torch.randn(prompts, 8, generator=rng)

    def draw(scale: float) -> Tensor:
        return centres[torch.arange(1000) % prompts] + scale * torch.randn(1000, 8, generator=rng)

    reference, distances, widths = Gaussian.fit(draw(1.0)), [], []
    for _ in range(20):
        x = draw(1.1)
        whole, *parts = (frechet_distance(Gaussian.fit(x[mask]), reference) for mask in group_masks(1000, GROUPS))
        distances.append(whole)
        widths.append(mean_interval(jackknife(whole, parts)).half_width)
    assert statistics.fmean(widths) == pytest.approx(T * statistics.stdev(distances), rel=0.6)
