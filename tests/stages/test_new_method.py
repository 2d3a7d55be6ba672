"""A method that is registered outside the project runs in the train stage, and its passes are counted."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dmd.config import METHOD_NAMES, TrainConfig, load_params
from dmd.distillation.cost import turn_costs
from dmd.distillation.inputs.batches import draw_pairs
from dmd.distillation.methods import METHODS, Method
from dmd.distillation.phases import Phase, Turn
from tests.helpers.params import set_params
from tests.helpers.stages import PATHS, arguments, stage


class PairsOnly(Method):
    """A method with regression on the pairs only."""

    def phases(self, cfg: TrainConfig) -> tuple[Phase, ...]:
        """One phase, which trains only the generator."""
        turn = Turn("generator", 1, cfg.generator_batch_size, cfg.lr_generator)
        schedule = cfg.lr_schedule
        return (Phase(name="pairs", steps=cfg.generator_turns, turns=(turn,), loss=self.loss, lr_schedule=schedule),)

    def loss(self, network: str, nets: Any, z: Tensor, cond: Tensor, rng: Any) -> dict[str, Tensor]:
        """Squared error of the generator's image."""
        pairs = draw_pairs(self.pairs, rng)
        t = torch.full((len(pairs.z),), self.generator_times[0])
        return {"total": (nets.generator(pairs.z, t, pairs.labels) - pairs.x).square().mean()}


@pytest.fixture
def own_method(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a method of its own."""
    monkeypatch.setitem(METHODS, "pairs_only", PairsOnly)
    monkeypatch.setattr("dmd.config.METHOD_NAMES", [*METHOD_NAMES, "pairs_only"])
    changes = {
        "method.name": "pairs_only",
        "train.generator_turns": 3,
        "train.generator_batch_size": 4,
        "train.warm_start.turns": 0,
    }
    set_params(inputs / "params.yaml", changes)
    return inputs


def test_a_method_from_outside_runs_through_the_train_stage(own_method: Path) -> None:
    outs = ("--out", "artifacts/generator", "--losses", "reports/losses.csv", "--validation", "artifacts/training")
    code, err = stage("train", *arguments(*PATHS), *outs)
    assert code == 0, err
    rows = list(csv.DictReader((own_method / "reports/losses.csv").open()))
    assert [row["phase"] for row in rows] == ["pairs"] * 3
    assert (own_method / "artifacts/generator/model_index.json").is_file()


def test_the_passes_of_a_method_from_outside_are_counted(own_method: Path) -> None:
    (cost,) = turn_costs(load_params(own_method / "params.yaml"))
    assert (cost.passes.forward, cost.passes.backward, cost.passes.kept, cost.images) == (1, 1, 1, 12)
