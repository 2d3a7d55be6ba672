"""The benchmark of turns accounts for every kind of work, and compares two trees."""

import json
import subprocess
from pathlib import Path

import pytest

from benchmarks import turns, workers
from benchmarks.block import Size
from benchmarks.cases import CASES, FROZEN
from dmd.distillation.methods import METHODS
from tests.helpers.projects import ROOT

TINY = Size(8, (8, 8), 4, critic_turns=2)


@pytest.mark.slow
def test_the_benchmark_of_turns_writes_its_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Here against the last commit, which every clone has."""
    monkeypatch.setattr(turns, "SIZES", {"tiny": TINY})
    monkeypatch.setattr(turns, "EARLIER", "HEAD")
    monkeypatch.setattr(turns, "META_BATCHES", (2,))
    out = tmp_path / "turns.json"
    monkeypatch.setattr("sys.argv", ["turns", "--repeats", "2", "--out", str(out)])
    turns.main()
    result = json.loads(out.read_text())
    cases = result["passes"]["tiny"]
    assert cases.keys() == result["host_ms_per_turn"].keys() == CASES.keys() >= METHODS.keys()
    passes = cases["dmd2"]
    kinds = {"generator", "teacher", "critic", "discriminator", "backward", "optimizer", "averages", "monitors"}
    assert passes["ms"].keys() == kinds | {"random numbers", "checks", "rest"}
    assert all(ms > 0 for ms in passes["ms"].values()) and passes["ms"]["backward"] > passes["ms"]["optimizer"]
    assert passes["megabytes_made"]["critic"] > passes["megabytes_made"]["teacher"] > 0
    assert passes["passes_over_dmd2"] == 1 > cases[FROZEN]["passes_over_dmd2"]
    assert cases["gdd"]["ms"]["discriminator"] > 0 and "critic" not in cases["gdd"]["ms"]
    assert cases["fd_loss"]["ms"]["features"] > 0 and cases["decoupled"]["ms"]["teacher"] > 0
    assert all(host.keys() == {"meta, 2", "cpu, 2"} for host in result["host_ms_per_turn"].values())
    against = result["against"]["sizes"]["tiny"]
    assert len(against["ratios"]) == 2 and against["frozen_over_earlier"] < 1
    # The last commit draws the numbers of today, so its losses differ; those of ca1a315 are compared below.
    assert min(against["largest_difference_of_losses"].values()) > 0


@pytest.mark.slow
def test_a_block_has_the_losses_of_the_earlier_commit_for_its_random_numbers() -> None:
    known = subprocess.run(["git", "cat-file", "-e", f"{turns.EARLIER}^{{commit}}"], cwd=ROOT, capture_output=True)
    if known.returncode:
        pytest.skip("a clone without history")
    with turns.worktree(ROOT, turns.EARLIER) as earlier:
        differences = turns.compare_losses("tiny", TINY, earlier)
    assert differences.keys() == set(turns.LOSSES) and max(differences.values()) < 1e-5, differences


def test_a_worker_that_has_ended_is_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "block.py"
    program.write_text("raise SystemExit(3)")
    monkeypatch.setattr(workers, "BLOCK", program)
    worker = workers.Worker(tmp_path, TINY)
    worker.process.wait()
    assert workers.in_turns({"broken": worker}, 1) == {}
