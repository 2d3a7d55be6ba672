"""Resumed, divided and shared trainings of every method with new networks, statistics or turns equal the plain one."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from dmd.config import Params, Shard, load_params
from dmd.distillation.trainer import Pause
from dmd.storage.checkpoint import Scratch
from tests.helpers.gan.every_method import CASES, TURNS, everything, new_training, run, run_with_pauses
from tests.helpers.parallel.processes import join, start_together
from tests.helpers.projects import ROOT
from tests.helpers.training import alone

# Cases of the test with two processes, and their layout.
LAYOUTS: list[tuple[str, Shard]] = [
    ("gdd", "none"),
    ("gdd, finite differences", "full"),
    ("gdd, exact penalty", "full"),
    ("dmd2, both kinds of trunk", "none"),
    ("decoupled, stable critic", "full"),
    ("f_distill, then fd_loss", "full"),
    ("gdd, then dmd with a stable critic", "none"),
    ("gdd, then dmd with a stable critic", "full"),
]


def check_close(others: dict[str, Tensor], whole: dict[str, Tensor]) -> None:
    assert others.keys() == whole.keys()
    for name, value in whole.items():
        torch.testing.assert_close(others[name], value, rtol=0, atol=1e-8, msg=name)


@pytest.mark.parametrize("case", CASES)
def test_a_resumed_training_equals_an_uninterrupted_one_to_the_bit(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    """It stops within the phases of the only method, or before and within those of the second one."""
    monkeypatch.setenv("DMD_SCRATCH", str(tmp_path))
    m, cfg, whole = new_training(params, case)
    rows = list(run(m, cfg, whole))
    wanted = everything(whole)
    for stop in range(min(TURNS, len(rows) - 1), len(rows)):
        m, cfg, first = new_training(params, case)
        list(run(m, cfg, first, until=stop))
        scratch = Scratch("train", {"stop": stop}, {})
        scratch.save(first.state_dict())
        scratch.wait()
        m, cfg, second = new_training(params, case)
        saved = Scratch("train", {"stop": stop}, {}).load()
        assert saved is not None
        second.load_state_dict(saved)
        assert repr(list(run(m, cfg, second))) == repr(rows[stop:])
        got = everything(second)
        assert got.keys() == wanted.keys() and all(torch.equal(got[k], wanted[k]) for k in wanted)


@pytest.mark.parametrize("case", ["gdd", "gdd, then dmd with a stable critic"])
def test_a_training_that_resumes_at_a_pause_equals_an_uninterrupted_one_to_the_bit(
    params: Params, scratch: Scratch, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    """The pauses lie before, in and after a phase of the discriminator, or of the critic of the second method."""
    monkeypatch.setattr("dmd.distillation.trainer.PAUSE_EVERY", 1)
    m, cfg, whole = new_training(params, case)
    items = list(run_with_pauses(m, cfg, whole))
    wanted = everything(whole)
    stops = [place for place, item in enumerate(items) if isinstance(item, Pause)]
    assert len(stops) == (2 if case == "gdd" else 3)
    for stop in stops:
        m, cfg, first = new_training(params, case)
        running = run_with_pauses(m, cfg, first)
        for _ in range(stop + 1):
            next(running)
        part = scratch.part(str(stop))
        part.save(first.state_dict())
        m, cfg, second = new_training(params, case)
        saved = part.load()
        assert saved is not None
        second.load_state_dict(saved)
        rows = [item for item in items[stop + 1 :] if not isinstance(item, Pause)]
        assert repr(list(run(m, cfg, second))) == repr(rows)
        got = everything(second)
        assert all(torch.equal(got[k], wanted[k]) for k in wanted)


@pytest.mark.parametrize("case", CASES)
def test_four_parts_of_a_batch_equal_the_whole_in_float64(params: Params, case: str) -> None:
    m, cfg, state = new_training(params, case, double=True)
    start = everything(state)
    list(run(m, cfg, state))
    whole = everything(state)
    still = {name.split(".")[0] for name in whole} - {n.split(".")[0] for n in whole if (whole[n] != start[n]).any()}
    assert still <= {"critic"} and ("critic" in still) == (m.has_critic is False)
    m, cfg, state = new_training(params, case, double=True)
    list(run(m, cfg, state, alone(4)))
    check_close(everything(state), whole)


def train_in_process(rank: int, processes: int, port: int, case: str, shard: Shard, out: Path) -> None:
    workers = join(rank, processes, port, parts=2)
    m, cfg, state = new_training(load_params(ROOT / "params.yaml"), case, double=True, shard=shard)
    list(run(m, cfg, state, workers))
    torch.save(everything(state), out / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize(("case", "shard"), LAYOUTS)
def test_two_processes_with_two_parts_each_equal_one(params: Params, tmp_path: Path, case: str, shard: Shard) -> None:
    start_together(train_in_process, 2, case, shard, tmp_path)
    m, cfg, state = new_training(params, case, double=True)
    list(run(m, cfg, state))
    for rank in range(2):
        check_close(torch.load(tmp_path / f"{rank}.pt", weights_only=True), everything(state))
