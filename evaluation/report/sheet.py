"""The picture of a run: held-out images, teacher and student, the same labels side by side."""

import torch
from torch import Tensor

from dmd.data.splits import Split
from dmd.generator.pictures import comparison
from dmd.samplers.sampler import Sampler
from dmd.training.optim import step_rng
from evaluation.evaluator.evaluator import Judge
from evaluation.evaluator.reference import EVALUATOR, Reference
from evaluation.metrics.pairwise import nearest

POOL = 50  # images of each class among which the nearest are looked for


def comparison_sheet(judge: Judge, real: Split, teacher: Tensor, student: Sampler, batch_size: int) -> bytes:
    """PNG bytes. teacher [N, C, H, W] holds the cells of the reference's picture labels, made from the same noise."""
    ref = judge.reference
    per_row = len(ref.picture_labels) // len(ref.shown)
    panels = {"real, held out": real_cells(ref, real, per_row)} if real.has_images else {}
    name = "student, one step" if student.nfe == 1 else f"student, {student.nfe} steps"
    panels |= {"teacher": teacher, name: judge.pictures(student, batch_size)}
    return comparison({name: images.numpy() for name, images in panels.items()}, ref.names(), per_row)


def nearest_sheet(judge: Judge, real: Split, student: Sampler, batch_size: int) -> bytes:
    """PNG bytes: of each row the student's images that lie nearest to one of the real ones, and those beside them."""
    ref = judge.reference
    per_row = len(ref.picture_labels) // len(ref.shown)
    labels = torch.tensor(ref.shown).repeat_interleave(POOL)
    rng = step_rng(ref.picture_seed, 1)
    images = torch.cat([student.images(part, rng) for part in labels.split(batch_size)])
    features = torch.cat([judge.panel.extractors[EVALUATOR](part) for part in images.split(batch_size)])
    distances, index = nearest(features, ref.features[EVALUATOR])
    order = distances.reshape(-1, POOL).argsort(dim=1)[:, :per_row]
    chosen = (order + torch.arange(len(ref.shown))[:, None] * POOL).flatten()
    panels = {"student": images[chosen], "nearest training image": real.images[index[chosen]]}
    return comparison({name: cells.numpy() for name, cells in panels.items()}, ref.names(), per_row)


def real_cells(ref: Reference, real: Split, per_row: int) -> Tensor:
    """The first images of each row's class or caption; repeated where there are too few, blank where there are none.

    Captions go by their words: each split counts its own.
    """
    rows = []
    for label, name in zip(ref.shown, ref.names(), strict=True):
        same = real.labels == label if ref.class_names else torch.tensor([c == name for c in real.captions])
        index = same.nonzero()[:, 0]
        blank = torch.full((per_row, *real.shape), 255, dtype=torch.uint8)
        rows.append(real.images[index[torch.arange(per_row) % len(index)]] if len(index) else blank)
    return torch.cat(rows)
