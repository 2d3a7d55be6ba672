"""Stage `train`: distillation -> the generator as a diffusers folder, losses, validation images over time."""

import argparse
from pathlib import Path

import pandas as pd
import torch
from accelerate import Accelerator
from torch import Tensor

from dmd.codecs.latents import at_once
from dmd.codecs.pixels import Pixels
from dmd.config import NO_FOLDER, Params
from dmd.data.splits import Split, load_split
from dmd.diffusion.denoiser import Denoiser
from dmd.distillation.batches import TrainingImages
from dmd.distillation.methods import METHODS
from dmd.distillation.run import distill
from dmd.distillation.trainer import Workers
from dmd.encoding.encoding import load_encoded
from dmd.errors import ConfigError
from dmd.generator.export import export_generator
from dmd.generator.generator import Generator, load_generator
from dmd.generator.scheduler import check_exportable
from dmd.samplers.sampler import to_uint8
from dmd.storage.checkpoint import Scratch
from dmd.storage.files import new_folder, write_bytes, write_text
from dmd.teachers.check import check_fits
from dmd.teachers.pairs import Pairs, load_pairs
from dmd.teachers.teacher import Teacher, load_teacher
from evaluation.models.features import load_extractors
from evaluation.validation.validator import Validator
from stages.command import run

INPUTS = ("data", "teacher", "encoded", "evaluator", "pairs")
PRECISION = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}  # accelerate's names
WATCHED = 500  # pairs that stand for a validation split, at most
GROUPS = ("guidance", "method", "train", "runtime")


def main(args: argparse.Namespace, params: Params, device: torch.device) -> str:
    accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision=PRECISION[params.train.precision])
    torch.set_num_threads(params.runtime.threads)  # accelerate has a number of its own for several CPU processes
    device, workers = accelerator.device, Workers(accelerator, params.train.accumulate)
    split, validation = (load_split(args.data, name, with_images=False) for name in ("train", "validation"))
    encoded = load_encoded(args.encoded)
    teacher = load_teacher(args.teacher, device, params.guidance.scale, split.class_captions, encoded.texts)
    check_fits(teacher, split.shape, len(split.class_names))
    check_pixels(params, isinstance(teacher.codec, Pixels))
    pairs = load_pairs(args.pairs).to(device)
    if split.has_images:
        reals = TrainingImages(split.images.unit() if encoded.latents is None else encoded.latents, split.labels)
    else:
        check_without_images(params, len(pairs))
        reals = TrainingImages(torch.empty(0, *teacher.shape), split.labels)
    try:
        method = METHODS[params.method.name](
            params.method,
            teacher.denoiser.process.timesteps,
            pairs,
            reals,
            teacher.denoiser.generator_timestep(),
        )
    except ValueError as e:
        raise ConfigError(str(e)) from None
    check_exportable(teacher, method.timesteps_of_generator)
    ranks = params.train.lora_rank, params.train.lora_rank_critic
    nets = method.networks(teacher, params.train.seed, ranks, params.train.lora_alpha)
    if (start := Path(params.method.init_from)) != NO_FOLDER:
        begin_from(nets.generator, load_generator(start, device), start)
    if params.train.gradient_checkpointing:
        nets.checkpoint_gradients()
    read = {i: getattr(args, i) for i in INPUTS} | named_by(params)
    scratch = Scratch("train", {g: getattr(params, g).model_dump() for g in GROUPS}, read)
    judge = load_extractors(args.evaluator, device)[1]["classifier" if split.class_names else "evaluator"]
    watched = to_watch(split, validation, pairs, teacher)
    size = at_once(*split.shape[1:])  # not evaluate.batch_size: another one must not train anew
    validator = Validator(judge, *watched, len(split.conditions), params.train.seed, scratch.folder, size)
    generator, kept, rows = distill(
        method, nets, params.train, teacher, split.labels, split.conditions, scratch, validator, workers
    )
    if not workers.is_main:
        return "done"
    with new_folder(args.validation) as folder:
        for picture in sorted(scratch.folder.glob("turn_*.png")):
            write_bytes(folder / picture.name, picture.read_bytes())
    write_text(args.losses, pd.DataFrame(rows).to_csv(index=False))
    export_generator(generator, teacher, args.out, params.train.lora_adapter)
    scratch.discard()
    score = next(row["validation_fd"] for row in rows if row["turn"] == kept)
    return f"{len(rows)} generator turns; kept the one after {kept}, validation FD {score:.3f}"


def named_by(params: Params) -> dict[str, Path]:
    """What else a training reads: with other content at the same path an interrupted one is another training."""
    named = {"init_from": Path(params.method.init_from), "lpips": Path(params.method.lpips.weights)}
    return {name: path for name, path in named.items() if path != NO_FOLDER and path.exists()}


def check_pixels(params: Params, pixels: bool) -> None:
    """Raise ConfigError for what a teacher on latents does not allow."""
    method = params.method
    asked = {
        "regression_loss: lpips compares images": method.regression_loss == "lpips",
        "clip: the range is that of images": method.clip,
        "gan.features: detail is of images": method.name != "dmd" and method.gan.features == "detail",
    }
    if why := [what for what, is_asked in asked.items() if is_asked and not pixels]:
        raise ConfigError("\n".join(f"method.{what}, and this teacher works on latents" for what in why))


def check_without_images(params: Params, pairs: int) -> None:
    """Raise ConfigError for what prompts alone do not allow."""
    if params.method.name != "dmd":
        raise ConfigError(f"method.name: {params.method.name} learns from images, and the data are prompts: take dmd")
    if not pairs:
        raise ConfigError("pairs.count: prompts alone are watched by the teacher's pairs while training; take some")


def to_watch(train: Split, validation: Split, pairs: Pairs, teacher: Teacher) -> tuple[Tensor, Tensor]:
    """uint8 images [N, C, H, W] that the generator's are held against while it trains, and the conditions of its own.

    The validation split's; its captions are not the train split's, of which the generator's are. Without images, pairs.
    """
    if validation.has_images:
        labels = validation.labels if train.class_names else train.labels[: len(validation.labels)]
        return validation.images[:], labels
    n = min(len(pairs), WATCHED)
    labels = train.labels[:n] if pairs.labels is None else pairs.labels[:n].cpu()
    return to_uint8(teacher.codec.decode(pairs.x[:n])).cpu(), labels


def begin_from(generator: Denoiser, finished: Generator, folder: Path) -> None:
    """Take over the weights of a finished generator. Raises ConfigError where they are of another network."""
    try:
        generator.load_state_dict(finished.denoiser.state_dict())
    except RuntimeError:
        raise ConfigError(f"method.init_from: the network in {folder} is not one like the teacher's") from None


if __name__ == "__main__":
    run("train", main, inputs=INPUTS, outs=("out", "losses", "validation"))
