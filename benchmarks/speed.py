"""`python -m benchmarks.speed`: where the time of a training goes, on the workspace's artifacts and params.yaml.

A turn stands beside the bare passes of the same images, measured in turn: the ratio is what the rest of the code costs.
"""

import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from accelerate import Accelerator
from torch import Tensor

from dmd.config import Params, load_params
from dmd.data.splits import load_split
from dmd.diffusion.denoiser import Denoiser
from dmd.distillation.batches import TrainingImages
from dmd.distillation.methods import METHODS
from dmd.distillation.parallel.workers import Workers
from dmd.distillation.state import TrainState
from dmd.distillation.trainer import train
from dmd.encoding.encoding import load_encoded
from dmd.teachers.pairs import load_pairs
from dmd.teachers.teacher import Teacher, load_teacher

REPEATS = 5
BATCHES = (16, 64, 256, 512)


def main() -> None:
    params = load_params(Path("params.yaml"))
    torch.set_num_threads(params.runtime.threads)
    cpu = torch.device("cpu")
    split = load_split(Path("artifacts/data"), "train")
    teacher = load_teacher(Path("artifacts/teacher"), cpu, params.guidance.scale, split.class_captions)
    print(sampling(teacher, split.labels).to_string(index=False), "\n")
    latents = load_encoded(Path("artifacts/encoded")).latents
    reals = TrainingImages(split.images.unit() if latents is None else latents, split.labels)
    print(turns(teacher, params, reals).to_string(index=False))


def sampling(teacher: Teacher, labels: Tensor) -> pd.DataFrame:
    """Images per second of one network pass, by batch size."""
    one, rows = teacher.sampler("ddim_1"), []
    for size in BATCHES:
        took = median(partial(one.images, labels[torch.arange(size) % len(labels)], torch.Generator()))
        rows.append({"one pass, batch of": size, "images per second": round(size / took)})
    return pd.DataFrame(rows)


def turns(teacher: Teacher, params: Params, reals: TrainingImages) -> pd.DataFrame:
    """Milliseconds of a generator turn with its critic turns, and of the bare passes that it cannot do without."""
    warm = params.train.warm_start.model_copy(update={"turns": 0, "critic_turns": 0})
    cfg = params.train.model_copy(update={"warm_start": warm, "generator_turns": REPEATS + 1})
    method = METHODS[params.method.name](
        params.method,
        teacher.denoiser.process.timesteps,
        load_pairs(Path("artifacts/pairs")),
        reals,
        teacher.denoiser.default_generator_timestep(),
    )
    state = TrainState(method.networks(teacher, 0, (0, 0)), cfg)
    loop = train(state, method, cfg, teacher.shape, reals.labels, Workers(Accelerator(cpu=True), 1))
    next(loop)
    net, k = state.nets.generator, params.method.critic_turns
    learns = learning(net, teacher, cfg.generator_batch_size) + k * learning(net, teacher, cfg.batch_size)
    # The generator's turn asks teacher and critic without a gradient; each critic turn asks the generator.
    asks = 2 * asking(net, teacher, cfg.generator_batch_size) + k * asking(net, teacher, cfg.batch_size)
    turn = median(lambda: next(loop))
    bare = learns + asks
    row = {"a generator turn and its critic turns, ms": turn, "their bare passes, ms": bare}
    return pd.DataFrame([{name: round(1000 * v) for name, v in row.items()} | {"ratio": round(turn / bare, 2)}])


def learning(net: Denoiser, teacher: Teacher, n: int) -> float:
    """Seconds of a forward and backward pass of n images."""
    x, t, y = torch.randn(n, *teacher.shape), torch.zeros(n, dtype=torch.long), torch.zeros(n, dtype=torch.long)
    return median(lambda: net(x, t, y if teacher.classes else None).square().mean().backward())


@torch.no_grad()
def asking(net: Denoiser, teacher: Teacher, n: int) -> float:
    """Seconds of a forward pass of n images."""
    x, t, y = torch.randn(n, *teacher.shape), torch.zeros(n, dtype=torch.long), torch.zeros(n, dtype=torch.long)
    return median(lambda: net(x, t, y if teacher.classes else None))


def median(work: Callable[[], object]) -> float:
    """Seconds, of REPEATS calls after the first."""
    work()
    took = []
    for _ in range(REPEATS - 1):
        start = time.perf_counter()
        work()
        took.append(time.perf_counter() - start)
    return statistics.median(took)


if __name__ == "__main__":
    main()
