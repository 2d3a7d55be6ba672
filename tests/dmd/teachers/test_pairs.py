"""Teacher pairs: trajectories of the teacher's ODE, stored in batches."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dmd.config import Params
from dmd.diffusion.denoiser import Denoiser
from dmd.samplers.ddim import ddim
from dmd.samplers.solvers import SOLVERS, Solver
from dmd.teachers.pairs import load_pairs, make_pairs, save_pairs
from dmd.teachers.teacher import Teacher
from tests.helpers.faults.damage import flip
from tests.helpers.networks import CPU


@pytest.mark.parametrize("solver", ["ddim", "heun"])
def test_pairs_are_trajectories_of_the_teacher(solver: str, teacher: Teacher, params: Params, tmp_path: Path) -> None:
    cfg = params.pairs.model_copy(update={"count": 7, "solver": solver, "steps": 4, "batch_size": 3})
    save_pairs(make_pairs(teacher, torch.arange(5), cfg, CPU), tmp_path / "pairs")
    pairs = load_pairs(tmp_path / "pairs")
    assert pairs.labels is not None and pairs.labels.tolist() == [0, 1, 2, 3, 4, 0, 1]
    with torch.inference_mode():
        torch.testing.assert_close(
            teacher.sampler(f"{solver}_4").sample(pairs.z, pairs.labels), pairs.x, rtol=1e-4, atol=1e-5
        )


def test_interrupted_pairs_resume(
    teacher: Teacher, params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Complete batches are not repeated, and the result equals that of an uninterrupted run."""
    cfg = params.pairs.model_copy(update={"count": 7, "steps": 4, "batch_size": 3})
    whole = make_pairs(teacher, torch.arange(5), cfg, CPU)
    sizes: list[int] = []  # of the batches that the solver was called with

    def solve_or_interrupt(denoiser: Denoiser, z: Tensor, steps: int, cond: Tensor) -> Tensor:
        if len(sizes) == 2:
            raise KeyboardInterrupt
        sizes.append(len(z))
        return ddim(denoiser, z, steps, cond)

    monkeypatch.setitem(SOLVERS, "ddim", Solver(solve_or_interrupt, lambda steps: steps))
    with pytest.raises(KeyboardInterrupt):
        make_pairs(teacher, torch.arange(5), cfg, CPU, tmp_path)
    sizes[:] = [0]
    again = make_pairs(teacher, torch.arange(5), cfg, CPU, tmp_path)
    assert sizes == [0, 1] and torch.equal(again.x, whole.x) and torch.equal(again.z, whole.z)


def test_a_damaged_batch_is_sampled_again(
    teacher: Teacher, params: Params, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = params.pairs.model_copy(update={"count": 7, "steps": 4, "batch_size": 3})
    whole = make_pairs(teacher, torch.arange(5), cfg, CPU, tmp_path)
    batches = sorted(tmp_path.glob("*.safetensors"))
    flip([batches[1]])
    again = make_pairs(teacher, torch.arange(5), cfg, CPU, tmp_path)
    assert torch.equal(again.x, whole.x) and f"note: {batches[1]} is damaged" in capsys.readouterr().err


def test_a_store_without_pairs_is_valid(teacher: Teacher, params: Params, tmp_path: Path) -> None:
    none = params.pairs.model_copy(update={"count": 0})
    save_pairs(make_pairs(teacher, torch.arange(5), none, CPU), tmp_path / "pairs")
    assert len(load_pairs(tmp_path / "pairs")) == 0
    assert json.loads((tmp_path / "pairs/manifest.json").read_text()) == {"count": 0}
