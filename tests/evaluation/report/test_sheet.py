"""The report's pictures show the right images."""

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from dmd.config import Params
from dmd.data.splits import load_split
from dmd.preparation.prepare import prepare
from evaluation.metrics.reference import Reference
from evaluation.report import sheet
from evaluation.report.sheet import draw_nearest, draw_pictures, select_cells
from tests.helpers.evaluators import sampler, toy_evaluator
from tests.helpers.sources import CAPTIONED, captioned_folder


def test_held_out_images_are_looked_up_by_their_caption(tmp_path: Path, params: Params) -> None:
    """Each split numbers its own captions, so a label of one split means nothing in another."""
    captioned_folder(tmp_path / "images")
    cfg = params.data.model_copy(update={**CAPTIONED, "folder": str(tmp_path / "images")})
    prepare(cfg, tmp_path / "data")
    train, test = (load_split(tmp_path / "data", name) for name in ("train", "test"))
    present = next(i for i, caption in enumerate(train.conditions) if caption in test.captions)
    absent = next(i for i, caption in enumerate(train.conditions) if caption not in test.captions)
    ref = Reference(
        splits=["train"], features={}, held_out={}, real_labels=train.labels, labels=train.labels,
        real_sources=train.labels, sources=train.labels, class_names=[], captions=list(train.conditions),
        replicates=1, neighbours=3,
        picture_labels=train.labels.new_tensor([present, present, absent, absent]), picture_seed=0,
    )  # fmt: skip
    cells = select_cells(ref, test)
    filled, blank = (cells[:2], cells[2:]) if present < absent else (cells[2:], cells[:2])
    first = test.captions.index(train.conditions[present])
    assert (filled[0] == test.images[first : first + 1][0]).all() and (blank == 255).all()


@pytest.mark.parametrize("conditional", [True, False])
def test_pictures_of_a_generator_without_conditions_have_no_labels(
    conditional: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It knows no classes, so that a row of its images is of none."""
    drawn: list[list[str]] = []
    monkeypatch.setattr(sheet, "comparison", lambda cells, names, per_row: drawn.append(list(names)) or b"")
    evaluator, student = toy_evaluator(), sampler(conditional=conditional)
    labels = torch.arange(300) % 10
    images = torch.zeros(300, 1, 8, 8, dtype=torch.uint8)
    split: Any = SimpleNamespace(images=images, labels=labels, has_images=True, shape=(1, 8, 8))
    pictures = draw_pictures(
        evaluator, split, split, torch.zeros(20, 1, 8, 8, dtype=torch.uint8), student, 64, tmp_path
    )
    assert len(drawn) == 2 and all(names == [str(i) if conditional else "" for i in range(10)] for names in drawn)
    assert any("label" in caption for caption in pictures) == conditional
    assert not any("class" in caption for caption in pictures)


def test_a_sheet_without_names_is_narrower(tmp_path: Path) -> None:
    split: Any = SimpleNamespace(images=torch.zeros(300, 1, 8, 8, dtype=torch.uint8))
    sheets = [draw_nearest(toy_evaluator(), split, sampler(conditional=c), 64) for c in (True, False)]
    wide, narrow = (Image.open(io.BytesIO(data)).width for data in sheets)
    assert narrow < wide
