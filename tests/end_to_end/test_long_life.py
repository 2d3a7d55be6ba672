"""Memory and files do not grow with the turns of a training, or with the versions of a model."""

import gc
import os
from pathlib import Path

import psutil
import pytest
import torch
from mlflow import MlflowClient

from dmd.config import Params
from dmd.distillation.run import distill
from dmd.distillation.selection import Validation
from dmd.generator.generator import Generator
from dmd.storage.checkpoint import Scratch
from dmd.teachers.teacher import Teacher
from flows.cleaning.versions import find_old_candidates
from flows.registry.store import open_store
from tests.helpers.networks import toy_denoiser
from tests.helpers.training import alone, copies, method, short_training

pytestmark = [pytest.mark.slow, pytest.mark.long]

TURNS, EVERY = 20_000, 1_000
VERSIONS = 200
MIB = 2**20


class Use:
    """Memory, open files and files in a folder, over the time of a test."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.process = folder, psutil.Process(os.getpid())
        self.memory: list[int] = []
        self.opened: list[int] = []
        self.files: list[int] = []

    def measure(self) -> None:
        gc.collect()
        self.memory.append(self.process.memory_info().rss)
        self.opened.append(self.process.num_fds() + self.process.num_threads())
        self.files.append(sum(1 for path in self.folder.rglob("*") if path.is_file()))

    def growth(self, values: list[int], start: int) -> int:
        """The largest value of the second half over the largest of the first half, after the first `start` values."""
        half = (start + len(values)) // 2
        return max(values[half:]) - max(values[start:half])


def test_a_training_of_many_turns_needs_no_more_memory_or_files(params: Params, scratch: Scratch) -> None:
    """The rows are in a file; checkpoints hold none of them, and all but the last are removed."""
    denoiser = toy_denoiser().requires_grad_(False)
    teacher = Teacher(denoiser, denoiser, None, (1, 8, 8), 11)
    sizes = {"batch_size": 2, "generator_batch_size": 2, "generator_turns": TURNS, "patience": 0}
    divergence = params.train.divergence.model_copy(update={"critic_factor": 1e9, "min_spread": 0.0})
    cfg = short_training(params, validate_every=EVERY, checkpoint_every=EVERY // 4, divergence=divergence, **sizes)
    use, checkpoints = Use(scratch.folder), list[int]()

    def validate(generator: Generator, turn: int) -> Validation:
        use.measure()
        checkpoints.extend(file.stat().st_size for file in scratch.checkpoints())
        return Validation([1.0, 1.0], {})

    labels, m = torch.arange(10), method(params, critic_turns=1)
    result = distill(m, copies(teacher), cfg, teacher, labels, ("a",) * 10, scratch, validate, alone())
    assert len(result.rows) == TURNS and [row["turn"] for row in result.rows] == list(range(1, TURNS + 1))
    assert use.growth(use.memory, 4) < 8 * MIB, [round(m / MIB, 1) for m in use.memory]
    assert use.growth(use.opened, 2) <= 0 and use.growth(use.files, 2) <= 0 and max(use.files) <= 8
    assert max(checkpoints) - min(checkpoints) < 2048


def test_many_versions_need_no_more_memory_and_old_ones_can_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    with open_store(tmp_path) as client:
        experiment = client.create_experiment("e", artifact_location=(tmp_path / "artifacts").as_uri())
        client.create_registered_model("many")
        use = Use(tmp_path)
        for number in range(1, VERSIONS + 1):
            register(client, experiment, number)
            if number % 10 == 0:
                use.measure()
        client.set_registered_model_alias("many", "champion", "7")
        per_version = (use.files[-1] - use.files[0]) / (VERSIONS - 10)
        assert per_version == 1, "its weights, and nothing beside the database"
        assert use.growth(use.memory, 4) < 16 * MIB, [round(m / MIB, 1) for m in use.memory]
        assert use.growth(use.opened, 2) <= 0
        items = list(find_old_candidates(client, "many", 10, set()))
        assert len(items) == VERSIONS - 11
        for item in items:
            item.remove()
        left = {int(v.version) for v in client.search_model_versions("name = 'many'")}
        assert left == {7, *range(VERSIONS - 9, VERSIONS + 1)}
        assert len(list((tmp_path / "artifacts").rglob("weights"))) == 11


def register(client: MlflowClient, experiment: str, number: int) -> None:
    """Register a version whose files are a stand-in for a generator."""
    model = client.create_logged_model(experiment_id=experiment, name="generator")
    files = Path(model.artifact_location.removeprefix("file://"))
    files.mkdir(parents=True)
    (files / "weights").write_bytes(bytes(1000))
    tags = {"dvc.lock.sha256": str(number)}
    client.create_model_version("many", model.artifact_location, tags=tags, model_id=model.model_id)
    client.set_registered_model_alias("many", "candidate", str(number))
