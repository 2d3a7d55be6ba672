"""Teacher pairs: trajectories of the teacher's ODE, stored in batches."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from dmd.config import Params
from dmd.data.shards import Rows
from dmd.diffusion.denoiser import Denoiser
from dmd.distillation.inputs.batches import draw_pairs
from dmd.errors import DataError
from dmd.samplers.ddim import ddim
from dmd.samplers.solvers import SOLVERS, Solver
from dmd.teachers import pairs as store
from dmd.teachers.pairs import Pairs, collect_pairs, load_pairs, make_pairs, save_pairs
from dmd.teachers.teacher import Teacher
from tests.helpers.faults.damage import flip
from tests.helpers.networks import CPU
from tests.helpers.projects import ROOT, environment
from tests.helpers.training import draws


@pytest.mark.parametrize("solver", ["ddim", "heun"])
def test_pairs_are_trajectories_of_the_teacher(solver: str, teacher: Teacher, params: Params, tmp_path: Path) -> None:
    cfg = params.pairs.model_copy(update={"count": 7, "solver": solver, "steps": 4, "batch_size": 3})
    assert save_pairs(make_pairs(teacher, torch.arange(5), cfg, CPU), tmp_path / "pairs") == 7
    pairs = load_pairs(tmp_path / "pairs")
    assert (
        isinstance(pairs.z, Tensor)
        and isinstance(pairs.x, Tensor)
        and pairs.labels is not None
        and pairs.labels.tolist() == [0, 1, 2, 3, 4, 0, 1]
    )
    with torch.inference_mode():
        torch.testing.assert_close(
            teacher.sampler(f"{solver}_4").sample(pairs.z, pairs.labels), pairs.x, rtol=1e-4, atol=1e-5
        )


def test_interrupted_pairs_resume(
    teacher: Teacher, params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Complete batches are not repeated, and the result equals that of an uninterrupted run."""
    cfg = params.pairs.model_copy(update={"count": 7, "steps": 4, "batch_size": 3})
    whole = collect_pairs(make_pairs(teacher, torch.arange(5), cfg, CPU))
    sizes: list[int] = []  # of the batches that the solver was called with

    def solve_or_interrupt(denoiser: Denoiser, z: Tensor, steps: int, cond: Tensor) -> Tensor:
        if len(sizes) == 2:
            raise KeyboardInterrupt
        sizes.append(len(z))
        return ddim(denoiser, z, steps, cond)

    monkeypatch.setitem(SOLVERS, "ddim", Solver(solve_or_interrupt, lambda steps: steps))
    with pytest.raises(KeyboardInterrupt):
        collect_pairs(make_pairs(teacher, torch.arange(5), cfg, CPU, tmp_path))
    sizes[:] = [0]
    again = collect_pairs(make_pairs(teacher, torch.arange(5), cfg, CPU, tmp_path))
    assert sizes == [0, 1] and torch.equal(again.x, whole.x) and torch.equal(again.z, whole.z)


def test_a_damaged_batch_is_sampled_again(
    teacher: Teacher, params: Params, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = params.pairs.model_copy(update={"count": 7, "steps": 4, "batch_size": 3})
    whole = collect_pairs(make_pairs(teacher, torch.arange(5), cfg, CPU, tmp_path))
    batches = sorted(tmp_path.glob("*.safetensors"))
    flip([batches[1]])
    again = collect_pairs(make_pairs(teacher, torch.arange(5), cfg, CPU, tmp_path))
    assert torch.equal(again.x, whole.x) and f"note: {batches[1]} is damaged" in capsys.readouterr().err


def test_a_store_without_pairs_is_valid(teacher: Teacher, params: Params, tmp_path: Path) -> None:
    none = params.pairs.model_copy(update={"count": 0})
    save_pairs(make_pairs(teacher, torch.arange(5), none, CPU), tmp_path / "pairs")
    assert len(load_pairs(tmp_path / "pairs")) == 0
    assert json.loads((tmp_path / "pairs/manifest.json").read_text()) == {"count": 0}


def random_pairs(n: int, shape: tuple[int, ...] = (1, 4, 4), labels: bool = True) -> Pairs:
    rng = torch.Generator().manual_seed(n)
    z, x = torch.randn(2, n, *shape, generator=rng)
    return Pairs(z, x, torch.arange(n) if labels else None)


def part(pairs: Pairs, start: int, stop: int) -> Pairs:
    return Pairs(pairs.z[start:stop], pairs.x[start:stop], None if pairs.labels is None else pairs.labels[start:stop])


@pytest.mark.parametrize("labels", [True, False])
def test_a_large_store_has_shards_and_its_rows_stay_on_disk(
    labels: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shards do not depend on the batches, and the pairs that a turn draws do not depend on the shards."""
    whole = random_pairs(25, labels=labels)
    monkeypatch.setattr(store, "SHARD_BYTES", 10 * 2 * 16 * 4)
    for name, size in (("a", 4), ("b", 25), ("c", 10)):
        assert save_pairs((part(whole, i, i + size) for i in range(0, 25, size)), tmp_path / name) == 25
        files = sorted((tmp_path / name).glob("*.safetensors"))
        assert [f.name for f in files] == [f"pairs.{end}safetensors" for end in ("00001.", "00002.", "")]
        assert [f.read_bytes() for f in files] == [(tmp_path / "a" / f.name).read_bytes() for f in files]
    in_memory = load_pairs(tmp_path / "a")
    monkeypatch.setattr(store, "MAX_BYTES_IN_MEMORY", 100)
    on_disk = load_pairs(tmp_path / "a")
    assert isinstance(on_disk.z, Rows) and isinstance(on_disk.x, Rows) and on_disk.device == CPU
    assert on_disk.to(torch.device("meta")).z is on_disk.z
    one, two = (draw_pairs(pairs, draws(n=40)) for pairs in (in_memory, on_disk))
    assert torch.equal(one.z, two.z) and torch.equal(one.x, two.x)  # type: ignore[arg-type]
    assert (one.labels is None) == (two.labels is None) == (not labels)
    assert one.labels is None or (two.labels is not None and torch.equal(one.labels, two.labels))


def test_a_small_store_has_the_bytes_of_a_single_file(tmp_path: Path) -> None:
    """Stores of earlier versions had one file, whatever their size."""
    pairs = random_pairs(7)
    save_pairs([part(pairs, 0, 3), part(pairs, 3, 7)], tmp_path / "pairs")
    save_file({"z": pairs.z, "x": pairs.x, "labels": pairs.labels}, tmp_path / "one.safetensors")  # type: ignore[dict-item]
    names = sorted(file.name for file in (tmp_path / "pairs").iterdir())
    assert names == ["manifest.json", "pairs.safetensors"]
    assert (tmp_path / "pairs/pairs.safetensors").read_bytes() == (tmp_path / "one.safetensors").read_bytes()
    assert json.loads((tmp_path / "pairs/manifest.json").read_text()) == {"count": 7}


def test_a_missing_shard_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "SHARD_BYTES", 10 * 2 * 16 * 4)
    save_pairs([random_pairs(25)], tmp_path / "pairs")
    (tmp_path / "pairs/pairs.00002.safetensors").unlink()
    with pytest.raises(DataError, match="has 20 pairs of the 25 in its manifest; run the pairs stage again"):
        load_pairs(tmp_path / "pairs")


FLAT = """
import resource, sys, torch
from pathlib import Path
from dmd.teachers.pairs import PairBatch, load_pairs, save_pairs

def batches(count):
    for _ in range(count):
        yield PairBatch(torch.zeros(64, 4, 64, 64), torch.zeros(64, 4, 64, 64), torch.zeros(64, dtype=torch.long))

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

out = Path(sys.argv[1])
save_pairs(batches(1), out / "few")
before = peak()
save_pairs(batches(64), out / "many")
assert load_pairs(out / "many").x[torch.tensor([0, 4095])].shape == (2, 4, 64, 64)
print(peak() - before)
"""


@pytest.mark.slow
def test_half_a_gigabyte_of_pairs_takes_the_memory_of_a_few_shards(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FLAT, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=True)
    assert sum(file.stat().st_size for file in (tmp_path / "many").iterdir()) > 512 * 2**20
    assert int(done.stdout) < 300, f"{done.stdout} MiB"
