"""Pictures of a run: held-out images, teacher and student side by side, and the student's nearest training images."""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from dmd.data.splits import Split
from dmd.generator.pictures import comparison
from dmd.samplers.sampler import Sampler
from dmd.training.optim import step_rng
from evaluation.evaluator.evaluator import Evaluator
from evaluation.metrics.pairwise import find_nearest
from evaluation.metrics.reference import Reference
from evaluation.metrics.schema import Baseline
from evaluation.models.names import EVALUATOR
from evaluation.report.training import select_training_pictures

POOL = 50  # images generated per class, to show the ones nearest to a training image
NEAREST = f"Student's images nearest to a training image, among {POOL} per row (evaluator features), and that image"


def draw_pictures(
    evaluator: Evaluator,
    real: Split,
    held_out: Split,
    teacher: Tensor,
    student: Sampler,
    batch_size: int,
    training: Path,
) -> dict[str, bytes]:
    """PNG pictures of the report by caption: the comparison, the nearest images, then a selection from training.

    teacher: cells [N, C, H, W] of the teacher. training: folder with a picture of every validation, turn_N.png.
    """
    caption = _describe_comparison(held_out, student)
    pictures = {caption: draw_comparison(evaluator, held_out, teacher, student, batch_size)}
    if real.has_images:
        pictures[NEAREST] = draw_nearest(evaluator, real, student, batch_size)
    paths = {f"after {int(path.stem[5:])} generator turns": path for path in training.glob("*.png")}
    # A long training has thousands of pictures: only those that the page shows are read.
    return pictures | {caption: paths[caption].read_bytes() for caption in select_training_pictures(list(paths))}


def _describe_comparison(held_out: Split, student: Sampler) -> str:
    """Caption of the comparison. Without conditions, held-out images have nothing in common with generated ones."""
    if student.conditional:
        return f"Same labels: {'held-out images, ' if held_out.has_images else ''}teacher, student"
    return f"{'Held-out images; ' if held_out.has_images else ''}teacher and student from the same noise"


def name_rows(reference: Reference, student: Sampler) -> list[str]:
    """Class or caption of each row of a picture; empty for a generator without conditions, which knows none."""
    names = reference.row_names()
    return names if student.conditional else [""] * len(names)


def load_teacher_cells(folder: Path, baseline: Baseline) -> Tensor:
    """Cells [N, C, H, W] of the teacher's sampler with the most network passes, from the baseline stage's folder."""
    name = max(baseline.teachers, key=lambda name: baseline.teachers[name].nfe)
    return load_file(folder / "pictures.safetensors")[name]


def draw_comparison(evaluator: Evaluator, held_out: Split, teacher: Tensor, student: Sampler, batch_size: int) -> bytes:
    """PNG of held-out images, teacher and student. teacher: cells [N, C, H, W] from the same labels and noise."""
    reference = evaluator.reference
    name = "student, one step" if student.nfe == 1 else f"student, {student.nfe} steps"
    panels = {"real, held out": select_cells(reference, held_out)} if held_out.has_images else {}
    panels |= {"teacher": teacher, name: evaluator.generate_pictures(student, batch_size)}
    cells = {name: images.numpy() for name, images in panels.items()}
    return comparison(cells, name_rows(reference, student), reference.cells_per_row)


def draw_nearest(evaluator: Evaluator, real: Split, student: Sampler, batch_size: int) -> bytes:
    """PNG with the student's images of each row that are nearest to a training image, beside these training images."""
    reference = evaluator.reference
    labels = torch.tensor(reference.row_labels).repeat_interleave(POOL)
    rng = step_rng(reference.picture_seed, 1)
    images = torch.cat([student.images(part, rng) for part in labels.split(batch_size)])
    extractor = evaluator.extractors.networks[EVALUATOR]
    features = torch.cat([extractor(part) for part in images.split(batch_size)])
    distances, index = find_nearest(features, reference.features[EVALUATOR])
    order = distances.reshape(-1, POOL).argsort(dim=1)[:, : reference.cells_per_row]
    selection = (order + torch.arange(len(reference.row_labels))[:, None] * POOL).flatten()
    panels = {"student": images[selection], "nearest training image": real.images[index[selection]]}
    cells = {name: images.numpy() for name, images in panels.items()}
    return comparison(cells, name_rows(reference, student), reference.cells_per_row)


def select_cells(reference: Reference, split: Split) -> Tensor:
    """First images of each row's class or caption; repeated if there are too few, blank if there are none.

    Captions are compared as text, because each split numbers its own captions.
    """
    rows, per_row = [], reference.cells_per_row
    for label, name in zip(reference.row_labels, reference.row_names(), strict=True):
        is_row = split.labels == label if reference.class_names else torch.tensor([c == name for c in split.captions])
        index = is_row.nonzero()[:, 0]
        blank = torch.full((per_row, *split.shape), 255, dtype=torch.uint8)
        rows.append(split.images[index[torch.arange(per_row) % len(index)]] if len(index) else blank)
    return torch.cat(rows)
