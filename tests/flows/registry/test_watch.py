"""The watch expects equal measures for the recorded seed, and measures within the noise for a fresh seed."""

import os
from pathlib import Path

import pytest

from dmd.errors import UserError
from evaluation.metrics.schema import GeneratorMeasures
from flows.registry.drift import DriftReport, find_drift, find_exact_differences, find_other_packages
from flows.registry.watch import Champion, check_champion, check_comparable
from flows.runtime.file_lock import hold_lock
from tests.helpers.projects import ROOT
from tests.helpers.reports import generator_measures


def measures(fd: float) -> GeneratorMeasures:
    return generator_measures({"a": fd}, half=0.1, replicates=3)


def test_the_recorded_seed_must_give_equal_measures_to_the_last_digit() -> None:
    assert find_exact_differences(measures(1.0), measures(1.0)) == []
    changed = find_exact_differences(measures(1.0), measures(1.0 + 1e-15))
    assert changed == ["fd a: 1.0 recorded, 1.000000000000001 now"]


def test_a_fresh_seed_may_differ_by_the_noise_of_both_measures() -> None:
    assert find_drift(measures(1.0), measures(1.14)) == []
    assert find_drift(measures(1.0), measures(1.15)) == ["fd a: 1 recorded, 1.15 with fresh noise, noise 0.14"]


@pytest.mark.parametrize(
    ("extractors", "samples", "draws", "key"),
    [({"a": "2"}, 1797, 3, "extractors"), ({"a": "1"}, 11, 3, "samples"), ({"a": "1"}, 1797, 2, "draws")],
)
def test_measures_by_different_protocols_are_not_compared(
    extractors: dict[str, str], samples: int, draws: int, key: str
) -> None:
    champion = Champion("3", measures(1.0), {"a": "1"}, Path("generator"), [])
    check_comparable(champion, {"a": "1"}, 1797, 3)
    with pytest.raises(UserError, match=f"version 3 was evaluated with other {key} than this workspace has"):
        check_comparable(champion, extractors, samples, draws)


def test_the_folder_of_a_run_that_works_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    champion = Champion("3", measures(1.0), {"a": "1"}, Path("generator"), [])
    monkeypatch.setattr("flows.registry.watch._load_champion", lambda *_: champion)
    monkeypatch.setattr("torch.set_num_threads", lambda _number: None)
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    with (
        hold_lock(tmp_path / "runs" / "flow.lock"),
        pytest.raises(UserError, match=rf"^a run works in this folder .*; wait for it, .* \(pid {os.getpid()}\)$"),
    ):
        check_champion(tmp_path, 0)


def test_packages_of_other_versions_are_listed() -> None:
    assert find_other_packages(["pytest==0.1", "no-such-package==1.0"]) == [
        f"pytest: 0.1 recorded, {pytest.__version__} now",
        "no-such-package: 1.0 recorded, not installed now",
    ]
    assert find_other_packages([f"pytest=={pytest.__version__}"]) == []


def test_a_report_lists_every_difference() -> None:
    packages = ["torch: 2.9 recorded, 2.14 now"]
    report = DriftReport("models:/m/3", ["fd a: 1 recorded, 2 now"], [], packages, seed=0, recorded={}, fresh={})
    lines = report.text().splitlines()
    assert not report.steady and report.to_dict()["steady"] is False
    assert lines[0] == "models:/m/3: not steady" and "- fd a: 1 recorded, 2 now" in lines
    assert lines[-1] == "- torch: 2.9 recorded, 2.14 now"
    steady = DriftReport("models:/m/3", [], [], packages, seed=0, recorded={}, fresh={})
    assert steady.steady and steady.text().startswith("models:/m/3: steady")
