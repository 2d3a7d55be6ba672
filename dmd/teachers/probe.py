"""Runs a fetched teacher once on two images of the data, since a pipeline that loads may still fail when it runs."""

from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from dmd.data.shards import Images
from dmd.errors import TeacherError
from dmd.families.pipelines import find_family
from dmd.families.tables import Embedded
from dmd.storage.faults import refuse
from dmd.teachers.teacher import Teacher

IMAGES = 2  # the first gets the least noise and the first condition, the second the most noise and the last condition


def probe(teacher: Teacher, folder: Path, stored: Images, device: torch.device) -> None:
    """Encode two images, run the network on them with conditions of the data, and decode them. Embed a caption.

    folder: that of the teacher, for messages
    stored: images of the data; noise takes their place if there are none

    Raises TeacherError if a step fails, or if it gives another shape than the data and the other parts need, or NaN or
    infinite values.
    """
    rng = torch.Generator().manual_seed(0)
    images = stored.unit()[:IMAGES] if len(stored) else torch.randn(IMAGES, *stored.shape[1:], generator=rng)
    images = images[torch.arange(IMAGES) % len(images)].to(device)
    _embed(teacher, folder)
    vae = f"correct {folder / 'vae' / 'config.json'}, or use another VAE"
    with refuse(f"{folder}: its VAE cannot encode images {[*images.shape]}", vae):
        x = teacher.codec.encode(images)
    _check(x, (IMAGES, *teacher.shape), f"{folder}: its VAE encodes images to values", vae)
    _predict(teacher, folder, x, torch.randn(x.shape, generator=rng).to(device))
    with refuse(f"{folder}: its VAE cannot decode latents {[*x.shape]}", vae):
        decoded = teacher.codec.decode(x)
    _check(decoded, images.shape, f"{folder}: its VAE decodes latents to values", vae)


def _embed(teacher: Teacher, folder: Path) -> None:
    """Embed a caption and the empty caption.

    Raises TeacherError if both are the same: transformers makes a tokenizer without words where a file is missing.
    """
    for caption in (caption for caption in teacher.captions[:1] if caption.strip()):
        for name, rows in find_family(teacher.pipeline, folder).embed(teacher.pipeline, [caption, ""]).items():
            if _are_equal(rows):
                raise TeacherError(
                    f"{folder}: {name} of the caption {caption[:80]!r} are those of the empty caption, since its "
                    "tokenizer does not know the words; restore the files of the tokenizer"
                )


def _are_equal(rows: Embedded) -> bool:
    """Whether the first two rows of a table are equal."""
    first, second = (rows[torch.tensor([i])] for i in range(2))
    if isinstance(first, Tensor) or isinstance(second, Tensor):
        return torch.equal(cast(Tensor, first), cast(Tensor, second))
    return torch.equal(first.values, second.values)


@torch.no_grad()
def _predict(teacher: Teacher, folder: Path, x0: Tensor, eps: Tensor) -> None:
    """Run the network on noised images [2, C, H, W] at both ends of the schedule, with its first and last condition."""
    denoiser, schedule = teacher.denoiser, folder / "scheduler" / "scheduler_config.json"
    t = torch.tensor([0, denoiser.process.timesteps - 1], device=x0.device)
    coefficients = torch.stack(denoiser.coefficients(torch.arange(denoiser.process.timesteps, device=x0.device)))
    _check(coefficients, coefficients.shape, f"{schedule} gives coefficients", "correct it")
    if teacher.conditions:
        cond = torch.tensor([0, teacher.conditions - 1], device=x0.device)
        given = "captions" if teacher.captions else f"the labels {cond.tolist()}"
    else:
        cond, given = None, "no labels, as its config has no num_class_embeds"
    config = find_family(teacher.pipeline, folder).folder_of(teacher.pipeline, folder) / "config.json"
    fault, remedy = f"{folder}: its network, given {given},", f"correct {config}, or use another teacher"
    with refuse(f"{fault} cannot run on {[*x0.shape]} at the timesteps {t.tolist()}", remedy):
        out = denoiser.predict(denoiser.process.add_noise(x0, eps, t), t, cond)
    _check(out, x0.shape, f"{fault} predicts values", remedy)


def _check(values: Tensor, shape: tuple[int, ...], fault: str, remedy: str) -> None:
    """Raise TeacherError unless the values have this shape and are finite."""
    if values.shape != shape:
        raise TeacherError(f"{fault} of shape {[*values.shape]}, not {[*shape]}; {remedy}")
    if not values.isfinite().all():
        raise TeacherError(f"{fault} that are NaN or infinite; {remedy}")
