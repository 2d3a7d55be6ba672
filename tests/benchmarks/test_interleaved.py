"""Works run in turns, and ratios are those of neighbouring runs."""

import pytest

from benchmarks.interleaved import medians, ratios_to, time_in_turns


def test_works_run_in_turns_and_the_first_round_does_not_count() -> None:
    order: list[str] = []
    times = iter([0.0, 0.0, 0.0, 1.0, 0.0, 3.0, 0.0, 2.0, 0.0, 4.0])  # the first round reads only its starts
    works = {"a": lambda: order.append("a"), "b": lambda: order.append("b")}
    seconds = time_in_turns(works, 2, lambda: next(times))
    assert order == ["a", "b"] * 3
    assert seconds == {"a": [1.0, 2.0], "b": [3.0, 4.0]}
    assert medians(seconds) == {"a": 1.5, "b": 3.5}
    assert ratios_to("a", seconds) == {"b": pytest.approx(2.5)}
