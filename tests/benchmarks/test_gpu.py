"""The program for a GPU runs whole on a CPU, and keeps the other parts if one fails."""

import json
from pathlib import Path

import pytest

from benchmarks import gpu
from benchmarks.block import Size

TINY = Size(8, (8, 8), 4, critic_turns=2)


def run(monkeypatch: pytest.MonkeyPatch, out: Path, *more: str) -> dict:
    monkeypatch.setattr(gpu, "SIZES", {"tiny": TINY})
    monkeypatch.setattr(gpu, "CASES", ("dmd2",))
    monkeypatch.setattr(gpu, "COPIED", 2**16)
    monkeypatch.setattr(gpu, "BATCHES", (1, 2))
    monkeypatch.setattr(gpu, "NOISE", (4, (1, 8, 8)))
    monkeypatch.setattr("sys.argv", ["gpu", "--device", "cpu", "--repeats", "2", "--out", str(out), *more])
    gpu.main()
    return json.loads(out.read_text())


@pytest.mark.slow
def test_every_part_is_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = {name: gpu.SETTINGS[name] for name in ("plain", "bf16, channels last")}  # compilation takes minutes
    monkeypatch.setattr(gpu, "SETTINGS", settings | {"unknown": {"compile": "no such mode"}})
    result = run(monkeypatch, tmp_path / "gpu.json")
    assert result["random numbers"]["integers are equal"] is True
    assert result["random numbers"]["largest difference of noise"] == 0
    assert result["passes, tiny"]["ms"]["backward"] > 0
    assert result["settings, tiny"]["plain"]["ratio to plain"] == 1
    assert result["settings, tiny"]["bf16, channels last"]["seconds"] > 0
    assert result["settings, tiny"]["unknown"].startswith("failed")
    assert result["images per second, tiny"]["bf16"].keys() == {"1", "2"}
    assert result["host, dmd2"]["waits in the turns of a block"] == 0


def test_a_part_that_fails_is_recorded_and_the_others_follow(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(*args: object) -> None:
        raise RuntimeError("no kernel\nfor this device")

    for name in ("measure_host", "measure_passes", "compare_settings", "measure_generation"):
        monkeypatch.setattr(gpu, name, fail)
    result = run(monkeypatch, tmp_path / "gpu.json")
    assert result["passes, tiny"] == "failed: RuntimeError: no kernel for this device"
    assert result["copies"]["GB/s, pinned"] > 0


def test_no_part_starts_after_the_time_is_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gpu, "parts", lambda *args: iter([("first", lambda: 1), ("second", lambda: 2)]))
    monkeypatch.setattr(gpu.time, "monotonic", iter([0.0, 1.0, 1.0, 61.0, 61.0]).__next__)
    result = run(monkeypatch, tmp_path / "gpu.json", "--minutes", "1")
    assert result["first"] == 1 and result["second"] == "not measured: no time left"


def test_the_peak_of_memory_is_that_of_its_own_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    peak = [5 * 2**30]  # of an earlier part
    make = gpu.new_block
    monkeypatch.setattr(gpu, "new_block", lambda *order, device: make(*order, device="cpu"))
    monkeypatch.setattr(gpu, "finish", lambda device: None)
    monkeypatch.setattr("torch.cuda.reset_peak_memory_stats", lambda: peak.__setitem__(0, 2**30))
    monkeypatch.setattr("torch.cuda.max_memory_allocated", lambda: peak[0])
    assert gpu.measure_passes(TINY, "cuda", 1)["peak GiB"] == 1
