"""The recipe for a GPU runs whole on a CPU, and what it writes is what stage `evaluate` reads."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import ten_million
from dmd.features.facts import read_facts
from dmd.generator.cost import read_cost
from dmd.generator.generator import load_generator
from tests.helpers.gan.trunks import FROZEN
from tests.helpers.imports import closure
from tests.helpers.networks import CPU

SMALL = {
    "pairs.count": 8,
    "pairs.steps": 2,
    "method.name": "gdd",
    "method.gan.trunks": [FROZEN],
    "method.gan.trunk_side": 16,
    "method.gan.weight": 1.0,
    "method.gan.warmup_turns": 1,
    "method.regression_weight": 0.0,
    "train.warm_start.turns": 2,
    "train.warm_start.batch_size": 4,
}


def run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, data: Path, teacher: Path, *more: str, **changes: Any
) -> dict[str, Any]:
    """Run the program on the digits with small numbers, and return run.json."""
    preset = {"changes": SMALL | changes}
    monkeypatch.setattr(ten_million, "load_yaml", lambda _: preset)
    out = tmp_path / "out"
    paths = ["--data", str(data), "--teacher", str(teacher), "--trunk", "none", "--out", str(out)]
    monkeypatch.setattr("sys.argv", ["ten_million", "--device", "cpu", "--batch-size", "4", *paths, *more])
    ten_million.main()
    return json.loads((out / "run.json").read_text())


def test_it_trains_writes_and_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, data_folder: Path, teacher_folder: Path
) -> None:
    result = run(monkeypatch, tmp_path, data_folder, teacher_folder, "--images", "12")
    assert result["is_complete"] and result["turns"] == 2 + 3 and result["generator_images_per_second"] > 0
    assert result["images"] == {"generator": 2 * 4 + 3 * 4, "discriminator": 4 + 3 * 4}
    out = tmp_path / "out"
    with (out / "losses.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["phase"] for row in rows] == ["warm_start"] * 2 + ["adversarial"] * 3 and "clock" not in rows[0]
    assert float(rows[-1]["generator_gan"]) > 0 and rows[0]["generator_gan"] == ""
    generator = load_generator(out / "generator", CPU)
    assert generator.denoiser(torch.randn(2, 1, 8, 8), torch.tensor([999, 999]), torch.tensor([0, 1])).shape[0] == 2
    assert "3 turns" in (out / "generator/README.md").read_text()
    assert [fact.name for fact in read_facts(out / "training")] == [FROZEN]
    assert read_cost(out / "training")["images"] == 20  # type: ignore[index]


def test_it_ends_when_the_time_is_over_and_keeps_what_is_done(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, data_folder: Path, teacher_folder: Path
) -> None:
    few = {"pairs.count": 0, "train.warm_start.turns": 0, "method.gan.trunks": ["teacher"]}
    result = run(monkeypatch, tmp_path, data_folder, teacher_folder, "--images", "400", "--minutes", "0", **few)
    assert not result["is_complete"] and result["turns"] == 1 and result["generator_images_per_second"] is None
    assert "1 turn" in (tmp_path / "out/generator/README.md").read_text()


def test_the_rates_and_sizes_are_those_of_the_preset_and_the_options() -> None:
    plain, scaled = (ten_million.read_params("fashion_mnist_trunks", 10_000_000, 1024, factor) for factor in (1.0, 2.0))
    assert plain.train.lr_generator == 1e-4 and plain.train.lr_discriminator == 4e-4
    assert scaled.train.lr_generator == 2e-4 and scaled.train.lr_discriminator == 8e-4
    assert scaled.train.generator_turns == 9765 and scaled.train.generator_batch_size == 1024
    assert scaled.method == plain.method and scaled.method.name == "gdd"


def test_it_needs_no_other_package_of_the_project() -> None:
    """A machine without DVC, Prefect and MLflow can run it."""
    files = closure("benchmarks/ten_million.py") - {"benchmarks/ten_million.py"}
    assert "dmd/library.py" in files and {f.split("/")[0] for f in files} == {"dmd"}
