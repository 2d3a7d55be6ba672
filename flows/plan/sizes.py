"""The size of each stage's work, as far as parameters and prepared data determine it."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import torch

from dmd.codecs.latents import Latents
from dmd.config import EvaluatorConfig, Params, TeacherConfig, TrunkConfig
from dmd.distillation.cost import TurnCost
from dmd.encoding.encode import TYPES
from dmd.families.tables import TableInMemory
from dmd.teachers.teacher import Teacher
from evaluation.evaluator.reuse import compare_plans, read_earlier
from flows.plan.images import count_images
from flows.plan.passes import passes_per_prediction
from flows.plan.units import amount


def stage_sizes(params: Params, root: Path, costs: list[TurnCost]) -> dict[str, str]:
    """The size of each stage's work, by its name."""
    images = Counter({"generator": 0})
    for cost in costs:
        images[cost.turn.network] += cost.images
    return {
        "data": _data(params, root),
        "teacher": _source(params.teacher),
        "encode": "latents and embeddings of captions, if the teacher uses them",
        "evaluator": _source(params.evaluator),
        "trunk": _images_of(params.trunk) if params.trunk.source == "train" else "none: no discriminator reads it",
        "baseline": _baseline(params),
        "pairs": f"{params.pairs.count:,} pairs",
        "train": _trained(images),
        "evaluate": f"{evaluated_images(params):,} images",
    }


def encoded_size(teacher: Teacher, params: Params) -> str:
    """Text with the bytes that stage `encode` stores per image and caption; the teacher is on the meta device."""
    width = TYPES[params.encode.precision].itemsize
    tables = [part.table for part in teacher.denoiser.net.modules() if isinstance(part, TableInMemory)]
    numbers = {
        "latents of {} per image": torch.Size(teacher.shape).numel() if isinstance(teacher.codec, Latents) else 0,
        "embeddings of {} per caption": sum(torch.Size(table.shape[1:]).numel() for table in tables),
    }
    return ", ".join(text.format(amount(n * width)) for text, n in numbers.items() if n) or "nothing to encode"


def evaluated_images(params: Params) -> int:
    """Images per sampler that are evaluated, over all noise replicates."""
    return params.baseline.samples * params.baseline.draws


def baseline_passes(params: Params) -> list[int]:
    """Network passes per image, without guidance, of each teacher sampler that baseline.measured does not cover."""
    cfg = params.baseline
    samplers = [("ddim", n) for n in cfg.ddim_steps] + [("heun", n) for n in cfg.heun_steps]
    earlier = read_earlier(cfg)
    measured = {} if earlier is None or compare_plans(cfg, earlier) else earlier.teachers
    return [passes_of(solver, n) for solver, n in samplers if f"{solver}_{n}" not in measured]


def passes_of(solver: str, steps: int) -> int:
    """Network passes per image of a sampler: one per step of DDIM; two per step of Heun's method, one in its last."""
    return steps if solver == "ddim" else 2 * steps - 1


def _trained(images: Mapping[str, int]) -> str:
    """Text with the images that each network trains on."""
    (first, count), *others = images.items()
    return ", ".join([f"{first} trains on {count:,} images", *(f"{name} on {n:,}" for name, n in others)])


def _data(params: Params, root: Path) -> str:
    """Text with the number of images, if it is known, and their bytes as stored, one per channel of a pixel."""
    count, size = count_images(params, root), params.data.channels * params.data.size**2
    each = amount(size)
    return f"{each} per image" if count is None else f"{count:,} images of {each}: {amount(count * size)}"


def _source(cfg: TeacherConfig | EvaluatorConfig) -> str:
    """Text with the origin of a stage's network: a training, a folder or a hub id."""
    return {"train": _images_of(cfg), "folder": "from a folder", "hub": cfg.hub_id}[cfg.source]


def _images_of(cfg: TeacherConfig | EvaluatorConfig | TrunkConfig) -> str:
    return f"trains on {cfg.steps * cfg.batch_size:,} images"


def _baseline(params: Params) -> str:
    """Text with the images that the teacher's samplers generate."""
    if not (passes := baseline_passes(params)):
        return "takes the teacher's figures from baseline.measured"
    images, most = evaluated_images(params) * len(passes), max(passes) * passes_per_prediction(params)
    return f"{images:,} images in up to {most:,} passes each"
