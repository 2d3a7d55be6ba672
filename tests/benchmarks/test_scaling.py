"""The scaling program plans a preset, and its check on two processes measures a ratio."""

from dataclasses import replace

import pytest

from benchmarks.block import SIZES
from benchmarks.scaling import measure, plan
from tests.helpers.projects import ROOT


@pytest.mark.slow
@pytest.mark.long
def test_a_plan_has_a_row_for_each_number_of_gpus_that_divides_the_batches() -> None:
    result = plan(ROOT, "digits", "a100")
    assert [row["gpus"] for row in result["rows"]] == [1, 2, 4, 8, 16, 32, 64]
    assert all(row["gpu_hours"] == row["gpus"] * row["hours"] for row in result["rows"])


@pytest.mark.slow
@pytest.mark.long
def test_two_processes_that_share_a_batch_are_timed_beside_two_independent_ones() -> None:
    result = measure(replace(SIZES["digits"], batch_size=2, critic_turns=1), repeats=1)
    assert result["throughput"] > 0 and 0 < result["throughput_by_the_model"] < 1
    assert result["size"]["batch_size"] == 2 and result["megabytes_per_second"] > 0
