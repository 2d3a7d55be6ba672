"""Ranges in ablation and search files: their points, their bounds, and what is refused."""

import pytest
from pydantic import ValidationError

from flows.ablation.plan import Ablation
from flows.pipeline.ranges import Range, edges, expand


def test_points_of_a_logarithmic_range_have_equal_ratios_and_include_the_bounds() -> None:
    assert expand(Range(log=[1e-5, 1e-3], n=3)) == [1e-5, 1e-4, 1e-3]


def test_points_of_a_linear_range_have_equal_distances() -> None:
    assert expand(Range(linear=[0.0, 1.0], n=5)) == [0.0, 0.25, 0.5, 0.75, 1.0]


def test_points_between_whole_numbers_are_whole_and_listed_once() -> None:
    assert expand(Range(log=[1, 8], n=4)) == [1, 2, 4, 8]
    assert expand(Range(linear=[1, 3], n=5)) == [1, 2, 3]


def test_edges_are_all_values_of_a_list_and_the_bounds_of_a_range() -> None:
    assert edges([3, 1, 2]) == [3, 1, 2] and edges(Range(log=[1, 8])) == [1, 8]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "either log"),
        ({"log": [1, 2], "linear": [1, 2]}, "either log"),
        ({"log": [0, 1]}, "must be above 0"),
        ({"linear": [2, 1]}, "must be below the upper bound"),
        ({"log": [1, 2], "n": 1}, "greater than or equal to 2"),
        ({"log": [1, float("inf")]}, "finite"),
        ({"log": [1, 2, 3]}, "at most 2"),
        ({"log": [True, 2]}, "valid"),
    ],
)
def test_a_range_that_is_none_is_refused(values: dict, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Range(**values)


def test_a_grid_takes_ranges() -> None:
    ablation = Ablation(description="d", seeds=[0], grid={"train.lr_generator": Range(log=[1e-5, 1e-3], n=3)})
    assert [row.changes["train.lr_generator"] for row in ablation.all_rows()] == [1e-5, 1e-4, 1e-3]


def test_a_grid_refuses_a_range_without_a_number_of_values() -> None:
    with pytest.raises(ValidationError, match=r"grid: train\.lr_generator: a range needs n"):
        Ablation(description="d", seeds=[0], grid={"train.lr_generator": Range(log=[1e-5, 1e-3])})


def test_a_grid_of_billions_is_refused_before_it_is_made() -> None:
    grid = {f"train.key{i}": Range(linear=[0, 59], n=60) for i in range(6)}
    with pytest.raises(ValidationError, match=r"grid: 46,656,000,000 members; list fewer values"):
        Ablation(description="d", seeds=[0], grid=grid)
