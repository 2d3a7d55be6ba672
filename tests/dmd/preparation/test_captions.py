"""The captions of a folder of images are the conditions."""

from pathlib import Path

from dmd.config import Params
from dmd.data.splits import load_split
from dmd.preparation.prepare import prepare
from tests.helpers.sources import CAPTIONED, captioned_folder


def test_every_distinct_caption_is_a_condition(tmp_path: Path, params: Params) -> None:
    captions = captioned_folder(tmp_path / "images")
    cfg = params.data.model_copy(update={**CAPTIONED, "folder": str(tmp_path / "images")})
    prepare(cfg, tmp_path / "data")
    train = load_split(tmp_path / "data", "train")
    assert not train.class_names and train.conditions == tuple(sorted(set(train.captions)))
    assert [train.conditions[label] for label in train.labels.tolist()] == train.captions
    assert set(train.captions) <= set(captions) and len(train.labels) == 140
