"""A batch that is split in parts or among processes gives the same result as the whole batch in one process."""

import os
import socket
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from accelerate import Accelerator
from torch import Tensor
from torch.distributed.tensor import DTensor

from dmd.config import GanConfig, Params, TrainConfig, load_params
from dmd.distillation.methods import METHODS, Method
from dmd.distillation.parallel.sharding import gather
from dmd.distillation.parallel.workers import Workers
from dmd.distillation.state import TrainState
from dmd.distillation.trainer import train
from dmd.errors import ConfigError
from dmd.teachers.teacher import Teacher
from dmd.training.random_source import RandomSource
from tests.helpers.networks import unet_denoiser
from tests.helpers.projects import ROOT
from tests.helpers.sources import reals, split
from tests.helpers.training import NO_PAIRS, alone

PARTS = {"generator", "critic", "discriminator", "ema"}


def new_state(method: Method, cfg: TrainConfig) -> TrainState:
    """The training state before the first step, with networks in float64."""
    denoiser = unet_denoiser(0).double().requires_grad_(False)
    nets = method.networks(Teacher(denoiser, denoiser, None, (1, 8, 8), 11), 0)
    assert nets.critic_heads is not None
    nets.critic_heads.double()
    nets.generator.load_state_dict(unet_denoiser(1).state_dict())
    return TrainState(nets, cfg)


def weights(
    params: Params,
    workers: Workers,
    turns: int,
    batch_size: int,
    shard: bool = False,
    stop: int = 0,
    back: int = 0,
    name: str = "dmd2",
) -> dict[str, Tensor]:
    """All trained weights in float64, by name, after training with two critic turns per generator turn.

    shard: shard the weights over the processes. stop: number of turns after which training resumes from a checkpoint
    in new networks. back: number of turns after which a second phase takes back the networks after turn 2.
    """
    losses = {"weight": 0.1, "critic_weight": 0.1, "r1_weight": 0.1, "from_turn": back}
    gan = GanConfig(**{**params.method.gan.model_dump(), **losses})
    cfg = params.method.model_copy(update={"name": name, "critic_turns": 2, "regression_weight": 0.0, "gan": gan})
    warm = params.train.warm_start.model_copy(update={"turns": 0, "critic_turns": 0})
    train_cfg = params.train.model_copy(
        update={
            "generator_turns": turns,
            "batch_size": batch_size,
            "generator_batch_size": batch_size,
            "warm_start": warm,
            "shard": shard,
        }
    )
    method = METHODS[name](cfg, 1000, NO_PAIRS, reals())

    state = new_state(method, train_cfg)
    for row in train(state, method, train_cfg, (1, 8, 8), split().labels, workers):
        if back and row["turn"] == 2:
            state.keep_if_best(20000, [1.0, 1.0], 0.0, whole=True)
        if row["turn"] == stop:
            break
    if stop:
        saved, state = state.state_dict(), new_state(method, train_cfg)
        state.load_state_dict(saved)
        list(train(state, method, train_cfg, (1, 8, 8), split().labels, workers))
    if shard:
        nets = [net for net in vars(state.nets).values() if net is not None]
        assert all(isinstance(net.state_dict()[name], DTensor) for net in nets for name, _ in net.named_parameters())
    parts = {
        "generator": state.nets.generator,
        "critic": state.nets.critic,
        "discriminator": state.nets.critic_heads,
        "ema": state.average(20000),
    }
    return {f"{n}.{k}": gather(v).clone() for n, part in parts.items() if part for k, v in part.named_parameters()}


@pytest.mark.parametrize("name", ["dmd2", "f_distill"])
def test_four_parts_of_sixteen_equal_a_batch_of_sixty_four(params: Params, name: str) -> None:
    whole, parts = weights(params, alone(), 2, 64, name=name), weights(params, alone(4), 2, 64, name=name)
    assert {name.split(".")[0] for name in whole} == PARTS
    for name, weight in whole.items():
        torch.testing.assert_close(parts[name], weight, rtol=0, atol=1e-8, msg=name)


@pytest.mark.parametrize("turn", ["critic", "generator"])
def test_the_gradient_of_one_step_in_float32_equals_that_of_the_whole_batch(params: Params, turn: str) -> None:
    """The tolerance is 1e-5 of each tensor's norm, or of 1 % of the largest norm if the true gradient is zero."""
    cfg = params.method.model_copy(update={"name": "dmd2", "regression_weight": 0.0})
    method = METHODS["dmd2"](cfg, 1000, NO_PAIRS, reals())
    denoiser = unet_denoiser(0).requires_grad_(False)
    nets = method.networks(Teacher(denoiser, denoiser, None, (1, 8, 8), 11), 0)
    nets.generator.load_state_dict(unet_denoiser(1).state_dict())
    # If the critic had the teacher's weights, the gradient would be rounding error only.
    nets.critic.load_state_dict(unet_denoiser(2).state_dict())

    def gradient(parts: int) -> list[Tensor]:
        learner = nets.trained_in(turn)
        learner.zero_grad()
        for samples in alone(parts).samples(64):
            rng = RandomSource(0, 0, turn, samples)
            z = rng.noise(1, 8, 8)
            labels = rng.integers(0, 10)
            (method.loss(turn, nets, z, labels, rng)["total"] / parts).backward(  # type: ignore[attr-defined]
                inputs=list(learner.parameters())
            )
        return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in learner.parameters()]

    whole, parts = gradient(1), gradient(4)
    largest = max(g.norm() for g in whole)
    for a, b in zip(whole, parts, strict=True):
        assert (a - b).norm() <= 1e-5 * max(a.norm(), 1e-2 * largest)


def train_in_process(rank: int, port: int, shard: bool, stop: int, back: int, out: Path) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    os.environ |= {"MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "1"}
    workers = Workers(Accelerator(cpu=True))
    torch.set_num_threads(1)  # accelerate gives all cores to each process
    assert workers.accelerator.num_processes == 2
    torch.save(weights(load_params(ROOT / "params.yaml"), workers, 10, 8, shard, stop, back), out / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize(("shard", "stop", "back"), [(False, 0, 0), (True, 4, 5)], ids=["copies", "shards"])
def test_two_processes_with_half_the_batch_each_equal_one(
    params: Params, tmp_path: Path, shard: bool, stop: int, back: int
) -> None:
    """Train 20 steps in float64 over gloo, 10 of them with a generator turn; with shards, also resume and go back."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    mp.start_processes(train_in_process, (port, shard, stop, back, tmp_path), nprocs=2, start_method="spawn")
    one = weights(params, alone(), 10, 8, back=back)
    for rank in range(2):
        other = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for name, weight in one.items():
            torch.testing.assert_close(other[name], weight, rtol=0, atol=1e-8, msg=name)


def test_a_batch_that_cannot_be_shared_is_an_error() -> None:
    with pytest.raises(ConfigError, match="batch of 10 is not divisible by 1 processes x 4 accumulation steps"):
        alone(4).samples(10)
