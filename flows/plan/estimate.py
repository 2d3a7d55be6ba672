"""What a run would handle, need and take: images, bytes, memory of a process, hours. Nothing is written or trained."""

import json
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from dmd.codecs.latents import Latents
from dmd.config import Params
from dmd.device import choose_device
from dmd.encoding.encoding import TYPES
from dmd.families.captions import Held
from dmd.teachers.teacher import Teacher
from evaluation.evaluator.reuse import compare_plans, read_earlier
from evaluation.models.build import find_complete_folder
from flows.plan.architecture import PUBLISHED, Unknown, blank_teacher
from flows.plan.memory import FLOAT, pairs_bytes, train_memory
from flows.plan.rate import Rate, measure
from flows.plan.turns import Turns, guided, processes, turns_of

IMAGES = {  # of each split that a data set has of its own
    "digits": {"train": 1797},
    "mnist": {"train": 60_000, "test": 10_000},
    "fashion_mnist": {"train": 60_000, "test": 10_000},
    "cifar10": {"train": 50_000, "test": 10_000},
    "celeba": {"train": 162_770, "validation": 19_867, "test": 19_962},
}
PASSING = {"teacher", "baseline", "pairs", "train", "evaluate"}  # images through teacher or student
WIDTH = 110  # of a line
JOINED = "\N{NO-BREAK SPACE}"  # where it is not to break
NOT_COUNTED = "libraries, working memory of single operations, text encoders, data, judges"
NOT_TIMED = "data, decoding latents, judging, validation, training of VAE and judges; other work on the machine"


@dataclass(frozen=True)
class Estimate:
    """stages: what each handles, in words; below: the lines about memory and time."""

    stages: dict[str, str]
    below: list[str]


def estimate(params: Params, root: Path, runs: set[str], missing: Mapping[str, str], memory: bool = True) -> Estimate:
    """Sizes of all stages, time of those in `runs`, memory of train. missing: keys that the user has yet to give."""
    turns = turns_of(params)
    stages = _sizes(params, root, turns)
    try:
        blank = partial(blank_teacher, _known(params, missing), root, classes=_classes(params, root))
        teacher = blank(torch.device("meta"))
    except Exception as e:  # diffusers raises many kinds for a configuration that it cannot make a network of
        return Estimate(stages, [f"memory and time: unknown, {' '.join(str(e).split())}"])
    size = sum(p.numel() for p in teacher.denoiser.parameters())
    stages["teacher"] += f"; {size:,} parameters, {amount(FLOAT * size)}"
    stages["encode"] = encoded(teacher, params)
    stages["pairs"] += f", {amount(pairs_bytes(teacher, params))}" if params.pairs.count else ""
    stages["train"] += f"; stores {amount(FLOAT * size)}"
    below = memory_lines(train_memory(teacher, params, turns), params) if memory else []
    if not runs & PASSING:
        return Estimate(stages, [*below, "time: none, no image passes through teacher or student"])
    share = processes(params.train.launcher) * params.train.accumulate
    rate = measure(blank, -(-params.train.batch_size // share), params.train.precision, params.runtime)
    return Estimate(stages, below + time_lines(seconds_of(params, turns, rate), runs, params, rate))


def _known(params: Params, missing: Mapping[str, str]) -> Params:
    """With a published teacher for a folder that is yet to be given, where what is needed names one. Raises Unknown."""
    if "teacher.folder" not in missing:
        return params
    named = next((name for name in PUBLISHED if name in missing["teacher.folder"]), None)
    if named is None:
        raise Unknown("teacher.folder is not given")
    return params.model_copy(update={"teacher": params.teacher.model_copy(update={"source": "hub", "hub_id": named})})


def _classes(params: Params, root: Path) -> int | None:
    """Of the data, if they are prepared."""
    manifest = _manifest(params, root)
    return None if manifest is None else len(manifest["class_names"])


def _manifest(params: Params, root: Path) -> dict | None:
    """Of the prepared data in `root`, if they are of the source and size that are asked for."""
    try:
        found = json.loads((root / "artifacts" / "data" / "manifest.json").read_text())
    except (OSError, json.JSONDecodeError):
        return None
    shape = [params.data.channels, params.data.size, params.data.size]
    return found if (found["source"], found["image_shape"]) == (params.data.source, shape) else None


def images_stored(params: Params, root: Path) -> int | None:
    """Images of all splits; None where the source has to be listed first."""
    if (manifest := _manifest(params, root)) is not None:
        return sum(manifest["counts"].values())
    own = IMAGES.get(params.data.source)
    if own is None:
        return None
    wanted = {"train": "all", "validation": params.data.validation, "test": params.data.test}
    return sum(n if wanted[split] == "all" else min(n, int(wanted[split])) for split, n in own.items())


def _sizes(params: Params, root: Path, turns: list[Turns]) -> dict[str, str]:
    """What each stage handles, as far as params tell."""
    data, new, judge = params.data, params.teacher, params.evaluator
    stored, judged = images_stored(params, root), params.baseline.samples * params.baseline.draws
    pixels = data.channels * data.size**2
    each = amount(pixels)
    passes = _passes(params)
    return {
        "data": f"{each} an image" if stored is None else f"{stored:,} images of {each}: {amount(stored * pixels)}",
        "teacher": {
            "train": f"learns from {new.steps * new.batch_size:,} images",
            "folder": "from a folder",
            "hub": new.hub_id,
        }[new.source],
        "encode": "latents and captions, if the teacher works on them",
        "evaluator": (
            f"learns from {judge.steps * judge.batch_size:,} images"
            if judge.source == "train"
            else "CLIP and classifier from a folder"
            if find_complete_folder(judge)
            else f"{judge.source}; its classifier learns from {judge.classifier_steps * judge.batch_size:,} images"
        ),
        "baseline": _judged(judged, passes, guided(params)),
        "pairs": f"{params.pairs.count:,} pairs",
        "train": f"generator learns from {_seen(turns, 'generator'):,} images, critic from {_seen(turns, 'critic'):,}",
        "evaluate": f"{judged:,} images",
    }


def encoded(teacher: Teacher, params: Params) -> str:
    """What stage `encode` stores of each training image and caption; teacher is on the meta device."""
    size, net = TYPES[params.encode.precision].itemsize, teacher.denoiser.net
    tables = [part.table for part in net.children() if isinstance(part, Held)]
    texts = sum(torch.Size(table.shape[1:]).numel() for table in tables)
    found = {
        "latents of {} an image": torch.Size(teacher.shape).numel() if isinstance(teacher.codec, Latents) else 0,
        "embeddings of {} a caption": texts,
    }
    return ", ".join(what.format(amount(n * size)) for what, n in found.items() if n) or "nothing to encode"


def _passes(params: Params) -> list[int]:
    """Of each of the teacher's samplers whose figures are not likely to be taken over, guidance apart."""
    cfg = params.baseline
    asked = [("ddim", n) for n in cfg.ddim_steps] + [("heun", n) for n in cfg.heun_steps]
    passes = {f"{solver}_{n}": passes_of(solver, n) for solver, n in asked}
    earlier = read_earlier(cfg)
    known = {} if earlier is None or compare_plans(cfg, earlier) else earlier.teachers
    return [n for name, n in passes.items() if name not in known]


def passes_of(solver: str, steps: int) -> int:
    """The network's, for one image: Heun's method takes two for each step but the last."""
    return steps if solver == "ddim" else 2 * steps - 1


def _judged(images: int, passes: list[int], again: int) -> str:
    if not passes:
        return "the teacher's figures were measured before"
    return f"{images * len(passes):,} images in up to {max(passes) * again:,} passes"


def _seen(turns: list[Turns], network: str) -> int:
    return sum(t.images for t in turns if t.network == network)


def memory_lines(found: dict[str, int], params: Params) -> list[str]:
    """The sum for one process of the train stage, its parts, and what is left out."""
    parts = ", ".join(f"{name} {amount(size)}".replace(" ", JOINED) for name, size in found.items())
    gpus = choose_device(params.runtime.device, fallback=True).type == "cuda" or processes(params.train.launcher) > 1
    return [
        f"memory of train, per {'GPU' if gpus else 'CPU process'}: {amount(sum(found.values()))}",
        *(f"  {line}".replace(JOINED, " ") for line in textwrap.wrap(parts, WIDTH)),
        f"  without {NOT_COUNTED}",
    ]


def seconds_of(params: Params, turns: list[Turns], rate: Rate) -> dict[str, float]:
    """Seconds of each stage's passes on a device like the measured one; the train stage's processes have one each."""
    judged, again = params.baseline.samples * params.baseline.draws, guided(params)
    learnt = params.teacher.steps * params.teacher.batch_size if params.teacher.source == "train" else 0
    train = sum(t.images * (t.forwards * rate.forward + t.backwards * rate.backward) for t in turns)
    if params.train.gradient_checkpointing:  # every activation is computed twice
        train += sum(t.images * t.backwards * rate.forward for t in turns)
    return {
        "teacher": learnt * rate.both,
        "baseline": judged * sum(_passes(params)) * again * rate.forward,
        "pairs": params.pairs.count * passes_of(params.pairs.solver, params.pairs.steps) * again * rate.forward,
        "train": train / processes(params.train.launcher),
        "evaluate": judged * params.method.steps * rate.forward,
    }


def time_lines(seconds: dict[str, float], runs: set[str], params: Params, rate: Rate) -> list[str]:
    """Hours of the stages that run, and what they cost in hours of a device."""
    todo = {name: s for name, s in seconds.items() if name in runs and s > 0}
    count, device = processes(params.train.launcher), choose_device(params.runtime.device, fallback=True).type.upper()
    cost = sum(todo.values()) + (count - 1) * todo.get("train", 0)
    each = {name: f"{name} {duration(s)}" for name, s in todo.items()}
    if count > 1 and "train" in each:
        each["train"] += f" by {count} processes, each as fast as this one"
    return [
        f"time: {duration(sum(todo.values()))}; cost: {rounded(cost / 3600)} {device} hours",
        "  " + ", ".join(each.values()),
        f"  {duration(rate.forward)} an image forward, {duration(rate.both)} with backward: {rate.how}",
        f"  without {NOT_TIMED}",
    ]


def amount(size: float) -> str:
    """Bytes in the unit that suits them."""
    unit = "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if size < 1000:
            break
        size, unit = size / 1024, larger
    return f"{size:.3g} {unit}"


def duration(seconds: float) -> str:
    """Seconds in the unit that suits them."""
    for unit, length in (("years", 365.25 * 86400), ("days", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        if seconds >= 2 * length:
            return f"{rounded(seconds / length)} {unit}"
    return f"{rounded(1000 * seconds)} ms"


def rounded(value: float) -> str:
    """Three figures, none of them behind an e."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
