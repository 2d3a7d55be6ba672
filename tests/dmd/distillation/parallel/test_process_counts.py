"""A checkpoint that two processes wrote, sharded or not, is found and read by one process and by three."""

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dmd.config import Params, Shard, load_params
from dmd.distillation.parallel.sharding import gather
from dmd.distillation.parallel.workers import Workers
from dmd.distillation.setup import new_scratch
from dmd.distillation.state import TrainState
from dmd.distillation.trainer import train
from dmd.storage.checkpoint import Scratch
from dmd.teachers.teacher import Teacher
from tests.helpers.networks import unet_denoiser
from tests.helpers.parallel.processes import join, start_together
from tests.helpers.projects import ROOT
from tests.helpers.sources import split
from tests.helpers.training import alone, gan_method, short_training

TURNS, SAVED = 4, 2  # generator turns


def parameters(processes: int, shard: Shard) -> Params:
    """The parameters of a run that this number of processes shares."""
    launcher = "python" if processes == 1 else "torchrun"
    changes = {"train.launcher": launcher, "train.processes": processes, "train.shard": shard}
    return load_params(ROOT / "params.yaml", changes)


def scratch_of(root: Path, processes: int, shard: Shard) -> Scratch:
    """The resumable state that stage `train` uses in such a run, in the folder `root`."""
    os.environ["DMD_SCRATCH"] = str(root)
    scratch = new_scratch(parameters(processes, shard), {})
    scratch.code = "code"  # the processes of this test have imported other modules than pytest has
    return scratch


def train_from(scratch: Scratch, workers: Workers, shard: Shard, until: int = TURNS) -> dict[str, Tensor]:
    """Train in float64 from the last checkpoint until a turn, save there, and return all weights."""
    params = load_params(ROOT / "params.yaml")
    sizes = {"generator_turns": TURNS, "batch_size": 12, "generator_batch_size": 12, "shard": shard}
    cfg = short_training(params, **sizes)
    method = gan_method(params, gan={"weight": 0.1, "critic_weight": 0.1}, critic_turns=1)
    denoiser = unet_denoiser(0).double().requires_grad_(False)
    nets = method.networks(Teacher(denoiser, denoiser, None, (1, 8, 8), 11), 0)
    assert nets.critic_heads is not None
    nets.critic_heads.double()
    nets.generator.load_state_dict(unet_denoiser(1).state_dict())
    state = TrainState(nets, cfg)
    if saved := scratch.load():
        assert saved["turn"] == SAVED
        state.load_state_dict(saved)
    for row in train(state, method, cfg, (1, 8, 8), split().labels, workers):
        if row["turn"] == until:
            scratch.save(state.state_dict(), writes=workers.is_main)
            break
    scratch.wait()
    parts = {"generator": nets.generator, "critic": nets.critic, "heads": nets.critic_heads}
    return {f"{n}.{k}": gather(v).clone() for n, part in parts.items() for k, v in part.named_parameters()}


def work(rank: int, processes: int, port: int, root: Path, shard: Shard, until: int) -> None:
    """Train as one of several processes; the first one writes its weights."""
    weights = train_from(scratch_of(root, processes, shard), join(rank, processes, port), shard, until)
    if rank == 0:
        torch.save(weights, root / f"{processes}.pt")
    torch.distributed.destroy_process_group()


def start(processes: int, root: Path, shard: Shard, until: int = TURNS) -> dict[str, Tensor]:
    start_together(work, processes, root, shard, until)
    return torch.load(root / f"{processes}.pt", weights_only=True)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("shard", ["full", "none"])
def test_a_checkpoint_of_two_processes_is_read_by_one_and_by_three(
    tmp_path: Path, shard: Shard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DMD_SCRATCH", str(tmp_path))
    whole = train_from(Scratch.at(tmp_path, "whole", "code"), alone(), shard="none")
    start(2, tmp_path, shard, until=SAVED)
    run = scratch_of(tmp_path, 1, "none").folder
    content = torch.load(run / "state-000001.pt", weights_only=True)["state"]
    assert content["critic"] and all(type(v) is Tensor for v in content["critic"].values()), "whole tensors"
    file = run / "state-000001.pt"
    three = start(3, tmp_path, shard="full" if shard == "none" else "none")
    for later in run.glob("state-000002.pt*"):
        later.unlink()
    assert file.exists()
    one = train_from(scratch_of(tmp_path, 1, "none"), alone(), shard="none")
    for name, weight in whole.items():
        torch.testing.assert_close(one[name], weight, rtol=0, atol=1e-8, msg=name)
        torch.testing.assert_close(three[name], weight, rtol=0, atol=1e-8, msg=name)
