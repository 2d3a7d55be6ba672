"""The tables of docs/scaling.md hold the figures of their records, and say how to write a record that is missing."""

import json
from pathlib import Path
from typing import Any

import pytest

from scripts import docs_speed
from scripts.docs_speed import SPEED_TABLES

GIB = 2**30
PLAN = {"gpus": 8, "shard": "none", "accumulate": 2, "memory": 3 * GIB, "hours": 1.5, "gpu_hours": 12.0, "share": 0.875}
OF_DMD2 = {"ms": {"critic": 3.0, "rest": 1.0}, "ms_in_all": 4.0, "passes_over_dmd2": 1.0}
OF_FD = {"ms": {"features": 2.0, "rest": 1.0}, "ms_in_all": 3.0, "passes_over_dmd2": 0.25}
AGAINST = {"ratio": 1.25, "frozen_over_earlier": 0.5, "largest_difference_of_losses": {"a": 2e-7, "b": 1e-9}}
POINT = {"factor": 16.0, "exponent": 0.98, "fixed": 0.03, "largest_distance_to_line": 0.02}
BLOCK = {"GFLOP": 5.5, "GB that must move": 0.1, "seconds at least": 0.2, "seconds": 0.4, "share of the floor": 0.5}
IMAGES = {"passes": 1, "seconds_alone": 0.002, "best_batch": 64, "images_per_second": 1234.5}
RECORDS: dict[str, Any] = {
    "turns": {
        "against": {"commit": "abc", "sizes": {"digits": AGAINST}},
        "host_ms_per_turn": {"dmd2": {"meta, 16": 4.04}},
        "passes": {"digits": {"dmd2": OF_DMD2, "fd_loss": OF_FD}},
    },
    "roofline": {"blocks": {"digits": BLOCK}},
    "sharing": {"digits": {"shared_pass": 0.86}},
    "linear": {"digits": {"batch": POINT}},
    "scaling": {
        "presets": {"sdxl": {"is_bound": True, "rows": [PLAN, PLAN]}},
        "published": {"latents": {"source": "DMD2", "model_over_published": 1.02}},
        "measured": {"size": {"side": 8, "batch_size": 256}, "throughput_by_the_model": 0.95, "throughput": 0.93},
    },
    "processes": {"cores": 2, "baseline": {"seconds": {"1": 100.0, "2": 55.0}, "ratio": 0.55}},
    "memory": [{"family": "UNet", "option": "full", "ratio": 1.034}],
    "generation": {"samplers": {"onnx": {**IMAGES, "speed_alone": 1.5, "speed": 2.0}}},
    "flow_cost": {"dvc repro, nothing to do": 2.34},
    "logging_share": {"digits": {"writing": 0.0005, "cpu": 1.001, "sending": 0.0123}},
    "demo": {"seconds": {"here": 240.4}, "fd_ratio": {"here": {"clip": 0.8}}},
    "gpu": {
        "device": "X",
        "settings, tiny": {"bf16": {"seconds": 0.1, "ratio to plain": 0.5}, "y": "failed"},
        "settings, z": "not measured: no time left",
    },
}
FIRST_ROWS = {
    "blocks": "| digits | 1.25 | 0.50 | 2e-07 |",
    "host": "| dmd2 | 4.0 |",
    "passes": "| digits, dmd2 | 4 | 1.00 | 3.0 | 1.0 |  |",
    "roofline": "| digits | 5.5 | 0.1 | 0.2 | 0.4 | 0.5 |",
    "sharing": "| digits | 0.86 |",
    "linear": "| digits, batch | 16.0 | 0.98 | 0.03 | 0.02 |",
    "plans": "| sdxl, 8 | none | 2 | 3.0 | at least 1.5 | 12 | 0.88 |",
    "scaling_checks": "| hours of DMD2, model over published | 1.02 |  |",
    "processes": "| baseline | 100.0 | 55.0 | 0.55 |",
    "memory": "| UNet | 1.03 |",
    "generation": "| onnx | 1 | 2.00 | 64 | 1,234.5 | 1.50 | 2.00 |",
    "flow_cost": "| dvc repro, nothing to do | 2.3 |",
    "logging_share": "| digits | 0.050 % | 1.001 | 1.23 % |",
    "demo": "| here | 240 | 0.8 |",
    "gpu": "| tiny, bf16 | 0.1 | 0.5 |",
}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a record of each program."""
    (tmp_path / "records").mkdir()
    for program, content in RECORDS.items():
        (tmp_path / "records" / f"{program}.json").write_text(json.dumps(content))
    monkeypatch.setattr(docs_speed, "ROOT", tmp_path)
    return tmp_path


def test_each_table_has_the_figures_of_its_record(root: Path) -> None:
    assert FIRST_ROWS.keys() == SPEED_TABLES.keys()
    for name, row in FIRST_ROWS.items():
        head, _, first, *_ = SPEED_TABLES[name]().splitlines()
        assert first == row and head.count("|") == first.count("|"), name
    assert len(SPEED_TABLES["plans"]().splitlines()) == 3  # a number of GPUs that two counts share stands once
    assert "two independent ones, 8x8, 256 images each | 0.95 | 0.93 |" in SPEED_TABLES["scaling_checks"]()


def test_a_missing_record_names_its_program(root: Path) -> None:
    (root / "records" / "turns.json").unlink()
    assert SPEED_TABLES["blocks"]() == "Not recorded yet; `python -m benchmarks.turns` writes the record.\n"
