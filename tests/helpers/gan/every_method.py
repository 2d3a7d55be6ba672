"""Trainings of every method with a new network, statistic or turn, small enough to run in a second or two."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from dmd.config import Params, Shard, TrainConfig
from dmd.diffusion.denoiser import Guided
from dmd.distillation.methods import Method
from dmd.distillation.networks import Networks
from dmd.distillation.parallel.sharding import gather
from dmd.distillation.parallel.workers import Workers
from dmd.distillation.state import TrainState
from dmd.distillation.trainer import Pause, advance
from dmd.teachers.pairs import Pairs
from dmd.teachers.teacher import Teacher
from tests.helpers.gan.matching import matching_method
from tests.helpers.gan.trunks import FROZEN
from tests.helpers.networks import unet_denoiser
from tests.helpers.sources import split
from tests.helpers.training import alone, short_training

SHAPE = (1, 8, 8)
NULL = 10
PENALTIES = {"trunk_r1_weight": 0.1, "trunk_r2_weight": 0.1, "penalty_every": 2}
LIVELY = {"augment": True, "mixing": "channels_and_scales", "warmup_turns": 1}
STABLE = {"projection": True, "critic_interpolation": 0.9, "critic_average": 0.9}

# Changes to `method`; those of `gan` and `then` are changes to these groups.
CASES: dict[str, dict[str, Any]] = {
    "gdd": {
        "name": "gdd",
        "regression_weight": 0.5,
        "gan": {"trunks": [FROZEN, "teacher"], "weight": 1.0, "loss": "relativistic", **LIVELY, **PENALTIES},
    },
    "gdd, finite differences": {
        "name": "gdd",
        "gan": {"trunks": ["teacher:encoder"], "loss": "hinge", "penalty": "finite_difference", **PENALTIES},
    },
    "gdd, exact penalty": {
        "name": "gdd",
        "gan": {"trunks": [FROZEN], "weight": 1.0, **PENALTIES},
    },
    "dmd2, both kinds of trunk": {
        "name": "dmd2",
        "critic_turns": 2,
        "gan": {"trunks": ["critic", FROZEN], "weight": 0.1, "critic_weight": 0.1, **LIVELY, **PENALTIES},
    },
    "dmd, stable critic": {"name": "dmd", "critic_turns": 2, **STABLE},
    "decoupled, stable critic": {"name": "decoupled", "critic_turns": 1, **STABLE},
    "f_distill, then fd_loss": {
        "name": "f_distill",
        "critic_turns": 1,
        "gan": {"trunks": ["critic", FROZEN], "weight": 0.1, "critic_weight": 0.1},
        "then": {"name": "fd_loss", "generator_turns": 2},
    },
    "gdd, then dmd with a stable critic": {
        "name": "gdd",
        "critic_turns": 1,
        "gan": {"trunks": [FROZEN], "weight": 1.0},
        "then": {"name": "dmd", "generator_turns": 2, "critic_turns": 2},
        **STABLE,
    },
}
TURNS = 2  # generator turns of the first method


def new_training(
    params: Params, case: str, double: bool = False, shard: Shard = "none"
) -> tuple[Method, TrainConfig, TrainState]:
    """The method of a case, its training, and the state before the first step. double: networks in float64."""
    changes = dict(CASES[case])
    for group in ("gan", "then"):
        changes[group] = {**getattr(params.method, group).model_dump(), **changes.get(group, {})}
    pairs = Pairs(*torch.rand(2, 12, *SHAPE, generator=torch.Generator().manual_seed(3)), torch.arange(12) % NULL)
    if double:
        pairs = Pairs(pairs.z.double(), pairs.x.double(), pairs.labels)  # type: ignore[union-attr]
    m = matching_method(params, changes.pop("name"), pairs=pairs, **changes)
    sizes = {"batch_size": 8, "generator_batch_size": 8, "shard": shard}
    cfg = short_training(params, generator_turns=TURNS, **sizes)
    return m, cfg, TrainState(_new_networks(m, double), cfg)


def _new_networks(m: Method, double: bool) -> Networks:
    denoiser = unet_denoiser(0).requires_grad_(False)
    guided = Guided(denoiser, 3.0, NULL) if _has_guidance(m) else denoiser
    nets = m.networks(Teacher(denoiser, guided, None, SHAPE, NULL + 1), 0)  # type: ignore[arg-type]
    nets.generator.load_state_dict(unet_denoiser(1).state_dict())
    if double:
        for net in (*vars(nets).values(), *m.frozen.values()):
            if net is not None:
                net.double()
    return nets


def _has_guidance(m: Method) -> bool:
    return m.cfg.name == "decoupled"


def run(
    m: Method, cfg: TrainConfig, state: TrainState, workers: Workers | None = None, until: int | None = None
) -> Iterator[dict[str, Any]]:
    """Train and yield the rows of the log; validation selects the generator after turn TURNS. until: the last turn."""
    for item in run_with_pauses(m, cfg, state, workers):
        if isinstance(item, Pause):
            continue
        yield item
        if item["turn"] == until:
            return


def run_with_pauses(
    m: Method, cfg: TrainConfig, state: TrainState, workers: Workers | None = None
) -> Iterator[dict[str, Any] | Pause]:
    """Train as `run` does, and also yield the pauses."""
    for item in advance(state, m, cfg, SHAPE, split().labels, workers or alone()):
        if not isinstance(item, Pause) and item["turn"] == TURNS:
            state.keep_if_best(20000, [1.0, 1.0], 0.0, whole=True)
        yield item


def everything(state: TrainState) -> dict[str, Tensor]:
    """Copies of all that training changes: weights, averages and statistics, by network and name."""
    parts = {n: net for n, net in vars(state.nets).items() if net is not None and n != "teacher"}
    parts["average"] = state.average(20000)
    return {f"{n}.{k}": gather(v).clone() for n, part in parts.items() for k, v in part.state_dict().items()}
