"""Stages whose images are shared by two processes write the same bytes as one process."""

from pathlib import Path

import pytest

from dmd.storage.files import sha256
from tests.helpers.params import set_params
from tests.helpers.projects import ROOT, run
from tests.helpers.stages import arguments

CHANGES = {
    "pairs.batch_size": 3,
    "baseline.samples": 40,
    "baseline.batch_size": 16,
    "baseline.ddim_steps": [2],
    "baseline.heun_steps": [],
}
STAGES = {
    "pairs": ("data", "teacher", "encoded"),
    "baseline": ("data", "teacher", "encoded", "evaluator"),
}


def write(project: Path, stage: str, processes: int) -> str:
    """Run a stage as DVC does, without what another number of processes has kept; return the hash of its output."""
    set_params(project / "params.yaml", {"runtime.processes": processes})
    out = project / f"{stage}-{processes}"
    words = ("-m", f"stages.{stage}", *arguments(*STAGES[stage]), "--out", str(out))
    run(project, *words, DMD_SCRATCH=f"{out}.scratch", PYTHONPATH=str(ROOT))
    return sha256(out)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("stage", STAGES)
def test_two_processes_write_the_bytes_of_one(inputs: Path, stage: str) -> None:
    set_params(inputs / "params.yaml", CHANGES)
    assert write(inputs, stage, 2) == write(inputs, stage, 1)
