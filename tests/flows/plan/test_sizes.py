"""Counts of images, and the format of numbers with units."""

from pathlib import Path
from typing import Any

import pytest

from dmd.config import Params
from flows.plan.images import count_images, read_manifest
from flows.plan.units import amount, duration, rounded
from tests.helpers.params import with_values


def test_images_are_counted_by_the_splits_that_a_source_has(params: Params) -> None:
    def of(**data: Any) -> int | None:
        return count_images(with_values(params, data=data), Path("nowhere"))

    assert of() == 1797
    assert of(source="cifar10", validation=5000, test="all") == 60_000
    assert of(source="mnist", validation=5000, test=1000) == 61_000
    assert of(source="folder") is None


@pytest.mark.parametrize("content", ["", "[]", '{"source": "digits"}', "\x00"])
def test_a_damaged_manifest_counts_as_none(params: Params, tmp_path: Path, content: str) -> None:
    (tmp_path / "artifacts/data").mkdir(parents=True)
    (tmp_path / "artifacts/data/manifest.json").write_text(content)
    assert read_manifest(params, tmp_path) is None and count_images(params, tmp_path) == 1797


def test_numbers_get_a_unit_that_fits_their_size() -> None:
    assert [amount(v) for v in (12, 2048, 3.5 * 2**20, 2**40)] == ["12 B", "2 KiB", "3.5 MiB", "1 TiB"]
    assert [duration(v) for v in (0.0012, 30, 600, 7200, 86400 * 3, 86400 * 3652.5)] == [
        "1.2 ms", "30 s", "10 min", "2 h", "3 days", "10 years",
    ]  # fmt: skip


def test_an_estimate_has_two_significant_digits() -> None:
    assert [rounded(v) for v in (0.02013, 0.96, 4.73, 31.5, 334.0, 58_760.0)] == [
        "0.02", "0.96", "4.7", "32", "330", "59,000",
    ]  # fmt: skip
    assert amount(23.24 * 2**30, 2) == "23 GiB" and duration(31.54 * 86400) == "32 days"
