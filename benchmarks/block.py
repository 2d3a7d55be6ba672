"""One block of a training (its critic turns and a generator turn), for the other programs.

As a program, `python benchmarks/block.py JSON`, it runs one block for each line that it reads, and answers with the
block's seconds and numbers. It then uses the modules of the tree that PYTHONPATH names, which may be that of commit
ca1a315: there the modules have other names.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers import DDPMScheduler, UNet2DModel

from dmd.config import load_params

try:
    from dmd.diffusion.denoiser import as_denoiser
    from dmd.distillation.inputs.batches import TrainingImages
    from dmd.distillation.methods import METHODS
    from dmd.distillation.parallel.workers import Workers
    from dmd.distillation.state import TrainState
    from dmd.distillation.trainer import train
    from dmd.teachers.pairs import Pairs
    from dmd.teachers.teacher import Teacher
except ModuleNotFoundError:  # commit ca1a315
    from dmd.denoisers import as_denoiser
    from dmd.methods import METHODS
    from dmd.pairs import Pairs
    from dmd.trainer import TrainState, Workers, train

    from dmd.data import Reals as TrainingImages
    from dmd.teachers import Teacher

IMAGES = 512  # random training images and pairs
CLASSES = 10


@dataclass(frozen=True)
class Size:
    """The networks and the batch of a block."""

    side: int  # pixels
    channels: tuple[int, ...]  # of the UNet's levels
    batch_size: int  # of both turns
    image_channels: int = 1
    layers: int = 1  # residual blocks per level
    critic_turns: int = 5


SIZES = {"digits": Size(8, (16, 32), 64), "fashion_mnist": Size(28, (16, 32, 64), 64)}


def new_unet(size: Size) -> UNet2DModel:
    """A UNet with class labels and attention at its inner level, as the presets' teachers have."""
    depth = len(size.channels)
    return UNet2DModel(
        sample_size=size.side,
        in_channels=size.image_channels,
        out_channels=size.image_channels,
        layers_per_block=size.layers,
        block_out_channels=size.channels,
        down_block_types=("DownBlock2D",) * (depth - 1) + ("AttnDownBlock2D",),
        up_block_types=("AttnUpBlock2D",) + ("UpBlock2D",) * (depth - 1),
        norm_num_groups=8,
        num_class_embeds=CLASSES + 1,
    )


def new_block(
    size: Size,
    method: str,
    blocks: int,
    net: Any = None,
    trunk: str = "critic",
    device: str = "cpu",
    precision: str = "no",
    options: dict[str, Any] | None = None,
    frozen: Mapping[str, Any] | None = None,
    guide: Callable[[Any], Any] | None = None,
) -> tuple[Any, Iterator[dict[str, Any]]]:
    """The state of a training, and an iterator that runs one block at a time.

    net: a network in place of the size's UNet; device: cpu or cuda; precision: accelerate's name of the arithmetic;
    options: changes of the method's parameters, those of its GAN under "gan"; frozen: networks of images by name;
    guide: a function from the teacher to the guided one. The GAN loss is part of the method from its first turn; R1 and
    regression are left out, as in DMD2.
    """
    params = load_params(Path("params.yaml"))
    changes = {
        "name": method,
        "critic_turns": size.critic_turns,
        **method_changes(params.method.gan, trunk, options or {}),
    }
    warm = params.train.warm_start.model_copy(update={"turns": 0, "critic_turns": 0})
    batches = {"batch_size": size.batch_size, "generator_batch_size": size.batch_size}
    cfg = params.train.model_copy(update={"warm_start": warm, "generator_turns": blocks, **batches})
    torch.manual_seed(0)
    scheduler = DDPMScheduler(1000, prediction_type="v_prediction", clip_sample=False)
    denoiser = as_denoiser(new_unet(size) if net is None else net, scheduler).eval().requires_grad_(False)
    weights = next(denoiser.net.parameters())  # on the meta device they have no data and stay; the process follows them
    denoiser = denoiser.to(weights.device if device == "cpu" else device)
    weights = next(denoiser.net.parameters())
    shape = (size.image_channels, size.side, size.side)
    teacher = Teacher(denoiser, guide(denoiser) if guide else denoiser, None, shape, CLASSES + 1)  # type: ignore[arg-type]
    with torch.device("cpu"):
        x, labels = torch.rand(IMAGES, *shape) * 2 - 1, torch.arange(IMAGES) % CLASSES
    if frozen:  # their features of the images are compared at the start, where the networks are
        x, labels = x.to(weights.device), labels.to(weights.device)
    more = {"frozen": {name: each.to(weights.device) for name, each in frozen.items()}} if frozen else {}
    inputs = Pairs(x, x, labels), TrainingImages(x, labels)
    m = METHODS[method](params.method.model_copy(update=changes), 1000, *inputs, **more)
    state = TrainState(m.networks(teacher, 0), cfg)
    accelerator = Accelerator(cpu=device == "cpu", mixed_precision=precision)
    return state, train(state, m, cfg, shape, labels, Workers(accelerator, 1))


def method_changes(gan: Any, trunk: str, options: dict[str, Any]) -> dict[str, Any]:
    """Changes of the method's parameters: a GAN loss on one trunk from the first turn, no regression, and `options`."""
    weights = {"weight": 0.01, "critic_weight": 0.01, "r1_weight": 0.0, "from_turn": 0}
    former = {"critic": "innermost", "image": "image"}  # names of the key `features`, before `trunks` replaced it
    inputs = {"trunks": [trunk]} if "trunks" in type(gan).model_fields else {"features": former[trunk]}
    own = options.get("gan", {})
    return {"regression_weight": 0.0, "steps": 1, **options, "gan": gan.model_copy(update=weights | inputs | own)}


def change(nets: Any, order: dict[str, Any]) -> None:
    """Compile the networks, change their memory format, or allow TF32 in matrix products, as the order asks for."""
    if order.get("tf32"):
        torch.set_float32_matmul_precision("high")
    for denoiser in (nets.teacher, nets.generator, nets.critic):
        if order.get("channels_last"):
            denoiser.net.to(memory_format=torch.channels_last)
    if mode := order.get("compile"):
        nets.compile(mode)


def main() -> None:
    """Answer each line of the standard input with the seconds of one block, of the CPU and the clock, and its row."""
    order, size = json.loads(sys.argv[1]), Size(**json.loads(sys.argv[1])["size"])
    torch.set_num_threads(1)
    if order.get("numbers") == "earlier":
        import earlier_numbers  # beside this program

        earlier_numbers.install((size.image_channels, size.side, size.side))
    more = {key: order[key] for key in ("device", "precision", "trunk") if key in order}
    state, blocks = new_block(size, order["method"], 10_000, **more)
    change(state.nets, order)
    log, out = new_log(order), os.fdopen(os.dup(1), "w")
    for _ in sys.stdin:
        start = time.process_time(), time.perf_counter()
        row = next(blocks)
        logged = time.process_time()
        log(row)
        end = time.process_time(), time.perf_counter()
        numbers = {**row, "log_seconds": end[0] - logged}
        out.write(json.dumps([end[0] - start[0], end[1] - start[1], numbers]) + "\n")
        out.flush()


def new_log(order: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
    """A function that hands a row to the live log of stage `train`, if the order asks for it; else it does nothing."""
    if not order.get("live"):
        return lambda row: None
    from dmd.progress import LiveLog

    live = LiveLog("train")
    return lambda row: live.write(row["turn"], {k: v for k, v in row.items() if k != "turn"})


if __name__ == "__main__":
    main()
