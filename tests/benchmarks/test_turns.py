"""The benchmark of turns accounts for every kind of work, and compares two trees."""

import json
from pathlib import Path

import pytest

from benchmarks import turns, workers
from benchmarks.block import Size

TINY = Size(8, (8, 8), 4, critic_turns=2)


@pytest.mark.slow
def test_the_benchmark_of_turns_writes_its_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Here against the last commit, which every clone has."""
    monkeypatch.setattr(turns, "SIZES", {"tiny": TINY})
    monkeypatch.setattr(turns, "EARLIER", "HEAD")
    monkeypatch.setattr(turns, "MEASURED", ("dmd2", "gdd"))
    monkeypatch.setattr(turns, "META_BATCHES", (2,))
    out = tmp_path / "turns.json"
    monkeypatch.setattr("sys.argv", ["turns", "--repeats", "2", "--out", str(out)])
    turns.main()
    result = json.loads(out.read_text())
    passes = result["passes"]["tiny"]["dmd2"]
    kinds = {"generator", "teacher", "critic", "discriminator", "backward", "optimizer", "averages", "monitors"}
    assert passes["ms"].keys() == kinds | {"random numbers", "checks", "rest"}
    assert all(ms > 0 for ms in passes["ms"].values()) and passes["ms"]["backward"] > passes["ms"]["optimizer"]
    assert passes["megabytes_made"]["critic"] > passes["megabytes_made"]["teacher"] > 0
    assert result["host_ms_per_turn"]["dmd2"].keys() == {"meta, 2", "cpu, 2"}
    assert result["passes"]["tiny"]["gdd"]["ms"]["discriminator"] > 0
    assert len(result["against"]["sizes"]["tiny"]["ratios"]) == 2


def test_a_worker_that_has_ended_is_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "block.py"
    program.write_text("raise SystemExit(3)")
    monkeypatch.setattr(workers, "BLOCK", program)
    worker = workers.Worker(tmp_path, TINY)
    worker.process.wait()
    assert workers.in_turns({"broken": worker}, 1) == {}
