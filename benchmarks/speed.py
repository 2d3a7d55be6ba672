"""`python -m benchmarks.speed`: speed of sampling and of a training turn, on the workspace's artifacts and params.yaml.

A turn is compared with the bare network passes that it contains: the ratio is the cost of everything else.
"""

import argparse
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
from dmd.distillation.inputs.batches import TrainingImages
from dmd.distillation.methods import METHODS
from dmd.distillation.parallel.workers import Workers
from dmd.distillation.state import TrainState
from dmd.distillation.trainer import train
from dmd.encoding.encoded import load_encoded
from dmd.teachers.pairs import load_pairs
from dmd.teachers.teacher import Teacher, load_teacher

REPEATS = 5
BATCHES = (16, 64, 256, 512)


def main() -> None:
    """Print the tables of sampling and of training turns."""
    argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__).parse_args()
    params = load_params(Path("params.yaml"))
    torch.set_num_threads(params.runtime.threads)
    split = load_split(Path("artifacts/data"), "train")
    cpu = torch.device("cpu")
    teacher = load_teacher(Path("artifacts/teacher"), cpu, params.guidance.scale, split.class_captions)
    print(measure_sampling(teacher, split.labels).to_string(index=False), "\n")
    latents = load_encoded(Path("artifacts/encoded")).latents
    data = TrainingImages(split.images.unit() if latents is None else latents, split.labels)
    print(measure_turns(teacher, params, data).to_string(index=False))


def measure_sampling(teacher: Teacher, labels: Tensor) -> pd.DataFrame:
    """Images per second of one network pass, by batch size."""
    sampler, rows = teacher.sampler("ddim_1"), []
    for size in BATCHES:
        batch = labels[torch.arange(size) % len(labels)]
        seconds = median_seconds(partial(sampler.images, batch, torch.Generator()))
        rows.append({"one pass, batch of": size, "images per second": round(size / seconds)})
    return pd.DataFrame(rows)


def measure_turns(teacher: Teacher, params: Params, data: TrainingImages) -> pd.DataFrame:
    """Milliseconds of a generator turn with its critic turns, and of the bare network passes that it contains."""
    warm = params.train.warm_start.model_copy(update={"turns": 0, "critic_turns": 0})
    cfg = params.train.model_copy(update={"warm_start": warm, "generator_turns": REPEATS + 1})
    method = METHODS[params.method.name](
        params.method,
        teacher.denoiser.process.timesteps,
        load_pairs(Path("artifacts/pairs")),
        data,
        teacher.denoiser.default_generator_timestep(),
    )
    state = TrainState(method.networks(teacher, 0, (0, 0)), cfg)
    loop = train(state, method, cfg, teacher.shape, data.labels, Workers(Accelerator(cpu=True), 1))
    next(loop)
    net, k = state.nets.generator, params.method.critic_turns
    backward = backward_seconds(net, teacher, cfg.generator_batch_size) + k * backward_seconds(
        net, teacher, cfg.batch_size
    )
    # A generator turn runs teacher and critic without gradients; each critic turn runs the generator without gradients.
    forward = 2 * forward_seconds(net, teacher, cfg.generator_batch_size) + k * forward_seconds(
        net, teacher, cfg.batch_size
    )
    turn, bare = median_seconds(lambda: next(loop)), forward + backward
    row = {"a generator turn and its critic turns, ms": turn, "their bare passes, ms": bare}
    return pd.DataFrame([{name: round(1000 * v) for name, v in row.items()} | {"ratio": round(turn / bare, 2)}])


def backward_seconds(net: Denoiser, teacher: Teacher, n: int) -> float:
    """Seconds of a forward and backward pass of n images."""
    x, t, y = torch.randn(n, *teacher.shape), torch.zeros(n, dtype=torch.long), torch.zeros(n, dtype=torch.long)
    return median_seconds(lambda: net(x, t, y if teacher.conditions else None).square().mean().backward())


@torch.no_grad()
def forward_seconds(net: Denoiser, teacher: Teacher, n: int) -> float:
    """Seconds of a forward pass of n images, without gradients."""
    x, t, y = torch.randn(n, *teacher.shape), torch.zeros(n, dtype=torch.long), torch.zeros(n, dtype=torch.long)
    return median_seconds(lambda: net(x, t, y if teacher.conditions else None))


def median_seconds(work: Callable[[], object]) -> float:
    """Median duration of REPEATS - 1 calls, after a first call that is not counted."""
    work()
    durations = []
    for _ in range(REPEATS - 1):
        start = time.perf_counter()
        work()
        durations.append(time.perf_counter() - start)
    return statistics.median(durations)


if __name__ == "__main__":
    main()
