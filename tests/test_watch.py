"""The watch's judgement: the same noise to the last digit, fresh noise within the noise."""

from typing import Any

import pytest

from flows.registry.gate import MEASURES
from flows.watch import _check_same_measure, drift, exact_differences, words


def measures(fd: float, half: float = 0.1) -> dict[str, Any]:
    values = {kind: {"a": 0.5} for kind in MEASURES} | {"fd": {"a": fd}}
    interval = {kind: {"a": {"low": v["a"] - half, "high": v["a"] + half}} for kind, v in values.items()}
    return {**values, "interval": interval}


def test_the_same_noise_must_give_the_last_digit() -> None:
    assert exact_differences(measures(1.0), measures(1.0)) == []
    assert exact_differences(measures(1.0), measures(1.0 + 1e-15)) == ["fd a: 1.0 recorded, 1.000000000000001 now"]


def test_fresh_noise_may_differ_by_the_noise_of_both() -> None:
    assert drift(measures(1.0), measures(1.14)) == []
    assert drift(measures(1.0), measures(1.15)) == ["fd a: 1 recorded, 1.15 with fresh noise, noise 0.14"]


def test_other_judges_are_no_comparison() -> None:
    recorded = {"judges": {"a": "1"}, "samples": 10, "draws": 3}
    _check_same_measure("3", recorded, {"a": "1"}, 10, 3)
    for judges, samples, what in (({"a": "2"}, 10, "judges"), ({"a": "1"}, 11, "samples")):
        with pytest.raises(ValueError, match=f"version 3 was judged with other {what} than are here"):
            _check_same_measure("3", recorded, judges, samples, 3)


def test_what_has_changed_is_told_with_its_numbers() -> None:
    found = {"model": "models:/m/3", "steady": False, "changed": ["fd a: 1 recorded, 2 now"], "drifted": []}
    said = words({**found, "packages": ["torch 2.9 then, 2.14 now"]}).splitlines()
    assert (
        said[0] == "models:/m/3: not steady" and "- fd a: 1 recorded, 2 now" in said and said[-1].endswith("2.14 now")
    )
    assert words({**found, "steady": True, "packages": []}).startswith("models:/m/3: steady")
