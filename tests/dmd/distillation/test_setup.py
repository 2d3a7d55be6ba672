"""The name of a run's resumable state depends on what its result depends on."""

from pathlib import Path
from typing import Any

import pytest

from dmd.config import SAME_RESULT, load_params
from dmd.distillation.setup import new_scratch
from tests.helpers.projects import ROOT

ELSEWHERE: dict[str, Any] = {
    "train.launcher": "torchrun",
    "train.processes": 2,
    "train.launcher_options": {"max_restarts": 1},
    "train.shard": "full",
    "train.accumulate": 2,
    "train.gradient_checkpointing": True,
    "train.checkpoint_every": 7,
}
OFFLOADED = {"train.offload": "teacher"}  # it goes with neither shards nor adapters
RANK, ADAPTER = {"train.lora_rank": 2}, {"train.lora_adapter": True}
ROLLS_BACK = {"train.on_divergence": "roll_back"}


@pytest.fixture
def name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function from changes of the parameters to the name of the run."""
    monkeypatch.setattr("dmd.storage.checkpoint.code_hash", lambda: "code")
    monkeypatch.setenv("DMD_SCRATCH", str(tmp_path))
    return lambda changes: new_scratch(load_params(ROOT / "params.yaml", changes), {}).run


def test_a_run_is_found_again_with_other_processes_and_parts_of_a_batch(name: Any) -> None:
    assert {key.removeprefix("train.") for key in ELSEWHERE | OFFLOADED | ADAPTER} == SAME_RESULT
    assert name({}) == name(ELSEWHERE) == name(OFFLOADED) == name({"runtime.processes": 2})
    assert name(RANK) == name(RANK | ADAPTER) != name({})


@pytest.mark.parametrize("key", ["threads", "seed", "validate_every", "patience", "generator_turns"])
def test_a_run_with_another_result_has_another_name(name: Any, key: str) -> None:
    assert name({f"train.{key}": 3}) != name({f"train.{key}": 2})


def test_the_result_of_a_run_that_rolls_back_depends_on_its_checkpoints(name: Any) -> None:
    assert name(ROLLS_BACK) != name(ROLLS_BACK | {"train.checkpoint_every": 7})
