"""The plan's bytes are near the peak of a real training, for small networks of each family and for each option."""

import gc

import pytest
import torch

from benchmarks.memory import FAMILIES, HALF, OPTIONS, WITHIN, PeakBytes, compare


@pytest.mark.slow
@pytest.mark.parametrize("option", [name for name in OPTIONS if name != HALF])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_plan_is_within_15_percent_of_the_measured_peak(family: str, option: str) -> None:
    row = compare(family, option)
    assert abs(row["ratio"] - 1) <= WITHIN, row


def test_the_peak_counts_each_storage_once_until_it_is_freed() -> None:
    before = torch.zeros(10)
    with PeakBytes() as peak:
        a = torch.zeros(100)
        view = a[:50] + before[:1]
        assert peak.live == peak.peak == 400 + 200 + 40
        del a
        gc.collect()
        assert peak.live == 240 and peak.peak == 640
        b = torch.zeros(20)
        assert peak.live == 320 and peak.peak == 640
        del b, view
    assert peak.live == 40
