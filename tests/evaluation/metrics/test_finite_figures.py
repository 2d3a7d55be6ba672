"""A figure that is NaN or infinite is found by its key."""

from evaluation.metrics.finite import find_infinite_figure


def test_the_first_figure_that_is_no_number_is_found_at_any_depth() -> None:
    assert find_infinite_figure({"a": 1.0, "b": [0, {"c": -float("inf")}]}) == "b.1.c"
    assert find_infinite_figure({"a": None, "b": ["nan", 1e308], "c": True}) == ""
