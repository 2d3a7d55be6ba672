"""Processes that share work compute each item once, and all of them get every result in order."""

import os
from collections import deque
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dmd.config import Params, load_params
from dmd.samplers.sampler import Sampler
from dmd.storage.scratch import SCRATCH
from dmd.teachers.pairs import collect_pairs, make_pairs
from dmd.teachers.teacher import Teacher
from dmd.training.shared_work import ALONE, SharedWork
from evaluation.models.extractors import extract
from tests.helpers.networks import CPU, toy_denoiser
from tests.helpers.parallel.processes import start_together
from tests.helpers.projects import ROOT

LABELS = torch.arange(23) % 10
BATCH = 5  # five batches, which neither two nor three processes share equally


def test_each_process_has_every_nth_item() -> None:
    items = list(range(7))
    own = [list(SharedWork(rank, 3).own(items)) for rank in range(3)]
    assert own == [[0, 3, 6], [1, 4], [2, 5]]
    assert list(ALONE.own(items)) == items and ALONE.join_up(items) == items


def sampler() -> Sampler:
    return Sampler("toy", 1, (1, 8, 8), True, CPU, lambda z, cond: torch.tanh(z) * cond.view(-1, 1, 1, 1) / 10)


def features(work: SharedWork) -> dict[str, Tensor]:
    """Features of images, in float64 so that they show the order of the images."""
    networks = {"mean": lambda x: x.double().mean(dim=(1, 2, 3))[:, None], "first": lambda x: x[:, 0, 0, :3].double()}
    return extract(networks, sampler().batches(LABELS, BATCH, 3, work), work)  # type: ignore[arg-type]


def pairs(params: Params, work: SharedWork, folder: Path) -> Tensor:
    """The images of the pairs that all processes have made, read again from the folder."""
    denoiser = toy_denoiser(seed=0)
    teacher = Teacher(denoiser, denoiser, None, (1, 8, 8), 11)  # type: ignore[arg-type]
    cfg = params.pairs.model_copy(update={"count": 23, "batch_size": BATCH, "steps": 2, "solver": "ddim"})
    deque(make_pairs(teacher, LABELS, cfg, CPU, folder, work), maxlen=0)
    work.wait()
    return collect_pairs(make_pairs(teacher, LABELS, cfg, CPU, folder)).x.clone()


def take_part(rank: int, processes: int, port: int, folder: Path) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), SCRATCH: str(folder)}
    torch.set_num_threads(1)
    work = SharedWork.join(CPU)
    assert (work.rank, work.processes, work.is_main) == (rank, processes, rank == 0)
    assert work.from_main(lambda: rank) == 0
    params = load_params(ROOT / "params.yaml")
    (folder / "pairs").mkdir(exist_ok=True)
    result = features(work) | {"pairs": pairs(params, work, folder / "pairs")}
    torch.save(result, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_features_and_pairs_do_not_depend_on_the_number_of_processes(
    params: Params, tmp_path: Path, processes: int
) -> None:
    start_together(take_part, processes, tmp_path)
    (tmp_path / "alone").mkdir()
    alone = features(ALONE) | {"pairs": pairs(params, ALONE, tmp_path / "alone")}
    for rank in range(processes):
        shared = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert shared.keys() == alone.keys()
        for name, value in alone.items():
            assert torch.equal(shared[name], value), name
