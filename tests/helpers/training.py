"""Methods, networks, random sources and batches for tests of the training loop."""

from dataclasses import replace

import torch
from accelerate import Accelerator
from torch import Tensor

from dmd.config import GanConfig, MethodConfig, Params, TrainConfig
from dmd.distillation.methods import METHODS, Method
from dmd.distillation.networks import Networks
from dmd.distillation.parallel.workers import Workers
from dmd.teachers.pairs import Pairs
from dmd.teachers.teacher import Teacher
from dmd.training.random_source import RandomSource
from tests.helpers.networks import toy_denoiser, unet_denoiser
from tests.helpers.sources import reals

NO_PAIRS = Pairs(torch.empty(0, 1, 8, 8), torch.empty(0, 1, 8, 8), None)


def draws(seed: int = 7, n: int = 6, turn: str = "generator") -> RandomSource:
    """The random source for `n` samples at step 0."""
    return RandomSource(seed, 0, turn, range(n))


def alone(parts: int = 1) -> Workers:
    """A single process that splits each batch into `parts`."""
    return Workers(Accelerator(cpu=True), parts)


def batch(n: int = 6) -> tuple[Tensor, Tensor]:
    """Unit noise [n, 1, 8, 8] and labels [n]."""
    rng = torch.Generator().manual_seed(5)
    return torch.randn(n, 1, 8, 8, generator=rng), torch.randint(10, (n,), generator=rng)


def method(params: Params, pairs: Pairs = NO_PAIRS, **changes: object) -> Method:
    """The method of `params` with changes to its config, and without regression unless the changes include it."""
    cfg = MethodConfig(**{**params.method.model_dump(), "regression_weight": 0.0, **changes})  # type: ignore[arg-type]
    return METHODS[cfg.name](cfg, 1000, pairs, reals())


def networks(different: bool = True) -> Networks:
    """Toy networks. different: whether generator and critic differ from the teacher."""
    teacher = toy_denoiser(seed=0).requires_grad_(False)
    if not different:
        return Networks(teacher, teacher.copy(), teacher.copy())
    return Networks(teacher, toy_denoiser(seed=1), toy_denoiser(seed=2))


def gan_method(params: Params, name: str = "dmd2", gan: dict | None = None, **changes: object) -> Method:
    """A method with a discriminator. gan: changes to `method.gan`."""
    gan_cfg = GanConfig(**{**params.method.gan.model_dump(), **(gan or {})})
    cfg = params.method.model_copy(update={"regression_weight": 0.0, **changes, "gan": gan_cfg, "name": name})
    return METHODS[name](cfg, 1000, NO_PAIRS, reals())


def gan_networks(m: Method) -> Networks:
    """The networks of a method on UNets; the generator and the critic differ from the teacher."""
    denoiser = unet_denoiser(0).requires_grad_(False)
    nets = m.networks(Teacher(denoiser, denoiser, None, (1, 8, 8), 11), 0)
    return replace(nets, generator=unet_denoiser(1), critic=unet_denoiser(2))


def short_training(params: Params, warm: tuple[int, int] = (0, 0), **changes: object) -> TrainConfig:
    """A training of six generator turns. warm: the turns of generator and critic in the warm start."""
    start = params.train.warm_start.model_copy(update={"turns": warm[0], "critic_turns": warm[1], "batch_size": 4})
    base = {
        "ema_half_lives": [20000],
        "generator_turns": 6,
        "batch_size": 8,
        "generator_batch_size": 8,
        "warmup_turns": 2,
        "warm_start": start,
    }
    return params.train.model_copy(update={**base, **changes})


def copies(teacher: Teacher) -> Networks:
    """Networks of the unguided teacher and two copies of it."""
    return Networks(teacher.denoiser, teacher.denoiser.copy(), teacher.denoiser.copy())
