"""A batch that is split in parts or among processes gives the same result as the whole batch in one process."""

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from dmd.config import GanConfig, Params, Shard, TrainConfig, load_params
from dmd.diffusion.denoiser import Cond
from dmd.distillation.methods import METHODS, Method
from dmd.distillation.parallel.sharding import Placement, gather
from dmd.distillation.parallel.whole_batch import backward_turn
from dmd.distillation.parallel.workers import Workers
from dmd.distillation.state import TrainState
from dmd.distillation.trainer import Batches, train
from dmd.errors import ConfigError
from dmd.storage.snapshot import snapshot
from dmd.teachers.teacher import Teacher
from dmd.training.ema import own
from dmd.training.optim import UNSCALED, apply_gradients, backward
from dmd.training.random_source import RandomSource
from tests.helpers.networks import unet_denoiser
from tests.helpers.parallel.processes import join, start_together
from tests.helpers.projects import ROOT
from tests.helpers.sources import reals, split
from tests.helpers.training import NO_PAIRS, alone, gan_method, gan_networks

TURN_NAMES = "critic", "generator"
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
    shard: Shard = "none",
    stop: int = 0,
    back: int = 0,
    name: str = "dmd2",
) -> dict[str, Tensor]:
    """All trained weights in float64, by name, after training with two critic turns per generator turn.

    shard: processes that divide the weights among them. stop: number of turns after which training resumes from a
    checkpoint in new networks. back: number of turns after which a second phase takes back the networks after turn 2.
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
        saved, state = snapshot(state.state_dict()), new_state(method, train_cfg)
        state.load_state_dict(saved)
        list(train(state, method, train_cfg, (1, 8, 8), split().labels, workers))
    if shard != "none":
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


def train_in_process(
    rank: int, processes: int, port: int, turns: int, shard: Shard, stop: int, back: int, out: Path
) -> None:
    workers = join(rank, processes, port, parts=3 if processes == 2 else 1)
    trained = weights(load_params(ROOT / "params.yaml"), workers, turns, 12, shard, stop, back)
    torch.save(trained, out / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "turns", "shard", "stop", "back"),
    [
        pytest.param(2, 25, "none", 0, 0, id="replicated"),
        pytest.param(2, 25, "full", 4, 5, id="sharded-resumed"),
        pytest.param(3, 8, "full", 0, 0, id="three-shares", marks=pytest.mark.long),
        pytest.param(4, 8, 2, 4, 5, id="hybrid-resumed", marks=pytest.mark.long),
    ],
)
def test_several_processes_with_a_share_of_the_batch_each_equal_one(
    params: Params, tmp_path: Path, processes: int, turns: int, shard: Shard, stop: int, back: int
) -> None:
    """Train two critic turns for each generator turn in float64 over gloo; two processes accumulate three parts."""
    start_together(train_in_process, processes, turns, shard, stop, back, tmp_path)
    one = weights(params, alone(), turns, 12, back=back)
    for rank in range(processes):
        other = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for name, weight in one.items():
            torch.testing.assert_close(other[name], weight, rtol=0, atol=1e-9, msg=name)


def gradient(workers: Workers, shard: Shard, network: str) -> dict[str, Tensor]:
    """The gradient of a turn in float32, by the name of the parameter."""
    params = load_params(ROOT / "params.yaml")
    sizes = {"batch_size": 12, "generator_batch_size": 12, "shard": shard}
    cfg = params.train.model_copy(update=sizes)
    method = gan_method(params, gan={"weight": 0.1, "critic_weight": 0.1})
    state = TrainState(gan_networks(method), cfg)
    phase = method.phases(cfg)[-1]
    turn = next(turn for turn in phase.turns if turn.network == network)
    batches = Batches(0, (1, 8, 8), split().labels)
    with state.nets.only_training(network) as net:
        first = next(net.parameters())

        def draw(samples: range) -> tuple[Tensor, Cond, RandomSource]:
            rng = RandomSource(0, 0, turn.name, samples)
            return *batches.draw(rng, first), rng

        begin_part = partial(state.placement.begin_part, net)
        backward_turn(phase, turn, state.nets, draw, workers.samples(12), workers, UNSCALED, begin_part)
        return {name: gather(p.grad) for name, p in net.named_parameters() if p.grad is not None}


def save_gradients(rank: int, processes: int, port: int, out: Path) -> None:
    workers = join(rank, processes, port, parts=3)
    layouts: tuple[Shard, ...] = ("none", "full", 2)
    found = {str(shard): {turn: gradient(workers, shard, turn) for turn in TURN_NAMES} for shard in layouts}
    for shard in layouts:
        check_overflow(rank, shard)
    if rank == 0:
        torch.save(found, out)
    torch.distributed.destroy_process_group()


def check_overflow(rank: int, shard: Shard) -> None:
    """A gradient that is infinite in one share makes every process skip the step and lower the scale."""
    net, placement = unet_denoiser(0).net, Placement(shard)
    placement.place([net])
    optimizer, scaler = torch.optim.AdamW(net.parameters(), fused=True), torch.amp.GradScaler("cpu", init_scale=8.0)
    x, t, labels = torch.ones(1, 1, 8, 8), torch.zeros(1, dtype=torch.long), torch.zeros(1, dtype=torch.long)
    for is_infinite in (True, False):
        before = [own(p).clone() for p in net.parameters()]
        backward(net(x, t, class_labels=labels).sample.square().mean(), scaler)
        if is_infinite and rank % placement.group == placement.group - 1:  # those that hold the same share
            own(next(p.grad for p in net.parameters() if p.grad is not None and own(p.grad).numel())).fill_(torch.inf)
        apply_gradients(optimizer, net, 1e-3, 1.0, torch.zeros(()), scaler)
        is_same = all(torch.equal(a, own(b)) for a, b in zip(before, net.parameters(), strict=True))
        assert is_same == is_infinite and scaler.get_scale() == 4.0, f"{shard}, process {rank}"


@pytest.mark.slow
def test_the_gradient_of_one_step_in_float32_is_the_same_in_every_layout(tmp_path: Path) -> None:
    """Four processes with three parts each, replicated, sharded and as two groups of two, against one process."""
    start_together(save_gradients, 4, tmp_path / "gradients.pt")
    layouts = torch.load(tmp_path / "gradients.pt", weights_only=True)
    for turn in TURN_NAMES:
        whole = gradient(alone(), "none", turn)
        largest = max(g.norm() for g in whole.values())
        for shard, found in layouts.items():
            assert found[turn].keys() == whole.keys()
            for name, g in whole.items():
                difference = (found[turn][name] - g).norm()
                assert difference <= 1e-5 * max(g.norm(), 1e-2 * largest), f"{shard}: {turn}: {name}"


def test_a_batch_that_cannot_be_shared_is_an_error() -> None:
    with pytest.raises(ConfigError, match="batch of 10 is not divisible by 1 processes x 4 accumulation steps"):
        alone(4).samples(10)
