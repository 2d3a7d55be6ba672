"""The report's pictures show the right images."""

from pathlib import Path

from dmd.config import Params
from dmd.data.splits import load_split
from dmd.preparation.prepare import prepare
from evaluation.metrics.reference import Reference
from evaluation.report.sheet import select_cells
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
