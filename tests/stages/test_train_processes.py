"""Stage `train` in two processes, started by each launcher, trains as one process does."""

import csv
import shutil
from pathlib import Path

import pytest

from tests.helpers.params import set_params
from tests.helpers.projects import ROOT, run
from tests.helpers.stages import PATHS, arguments

CHANGES = {
    "train.warm_start.turns": 2,
    "train.warm_start.critic_turns": 1,
    "train.warm_start.batch_size": 4,
    "train.generator_turns": 2,
    "train.batch_size": 4,
    "train.generator_batch_size": 4,
    "method.critic_turns": 2,
}


def train(project: Path, launcher: str, processes: int) -> list[dict[str, str]]:
    """Run the stage as DVC does, and return the rows of its losses."""
    set_params(project / "params.yaml", {"train.launcher": launcher, "train.processes": processes})
    out = project / launcher
    outs = ("--out", f"{out}/generator", "--losses", f"{out}/losses.csv", "--validation", f"{out}/training")
    run(project, "-m", "stages.train", *arguments(*PATHS), *outs, DMD_SCRATCH=f"{out}/scratch", PYTHONPATH=str(ROOT))
    assert (out / "generator/model_index.json").is_file()
    return list(csv.DictReader((out / "losses.csv").open()))


@pytest.mark.slow
def test_two_processes_train_as_one(inputs: Path) -> None:
    set_params(inputs / "params.yaml", CHANGES)
    one = train(inputs, "python", 1)
    for launcher in ("accelerate", "torchrun"):
        two = train(inputs, launcher, 2)
        assert [row["phase"] for row in two] == [row["phase"] for row in one]
        for ours, theirs in zip(one, two, strict=True):
            for name in ("critic_total", "generator_dm", "generator_regression"):
                assert float(ours[name] or 0) == pytest.approx(float(theirs[name] or 0), rel=1e-3), (launcher, name)
        shutil.rmtree(inputs / launcher)
