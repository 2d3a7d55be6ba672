"""A teacher that trains shows pictures of samples to those who watch, and its weights do not depend on it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dmd import progress
from dmd.config import load_params
from dmd.data.splits import load_split
from dmd.preparation.prepare import prepare
from dmd.storage.checkpoint import Scratch
from dmd.storage.files import sha256
from dmd.teacher_training.run import train_to_folder
from dmd.teacher_training.watching import COLUMNS, ROWS
from tests.helpers.networks import CPU
from tests.helpers.projects import ROOT

SMALL = {
    "teacher.channels": [8, 8], "teacher.steps": 20, "teacher.batch_size": 4, "teacher.layers_per_block": 1,
    "teacher.vae.channels": [8, 16], "teacher.vae.steps": 2, "teacher.text.hidden_size": 16, "teacher.text.layers": 1,
}  # fmt: skip
SIDE = {"unet": 8, "text_unet": 16}


@pytest.mark.parametrize(("network", "has_classes"), [("unet", True), ("unet", False), ("text_unet", True)])
def test_pictures_are_shown_after_every_tenth_and_change_no_weight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network: str, has_classes: bool
) -> None:
    monkeypatch.setenv("DMD_SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.setenv(progress.LIVE, str(tmp_path / "live"))
    side = SIDE[network]
    data = {"data.size": side, "data.validation": 800, "data.test": 800}  # 197 images to train on
    params = load_params(ROOT / "params.yaml", SMALL | data | {"teacher.network": network})
    prepare(params.data, tmp_path / "data")
    split, cfg = load_split(tmp_path / "data", "train"), params.teacher
    split = split if has_classes else replace(split, class_names=())

    def train(name: str) -> dict[str, str]:
        train_to_folder(cfg, split, Scratch("teacher", {"run": name}, {}), tmp_path / name, CPU)
        files = (file for file in (tmp_path / name).rglob("*") if file.is_file())
        return {str(file.relative_to(tmp_path / name)): sha256(file) for file in files}

    watched = train("watched")
    pictures = sorted((tmp_path / "live" / "pictures").iterdir())
    assert [p.name for p in pictures] == [f"teacher_{step:06d}.png" for step in range(2, 21, 2)]
    first, last = (np.asarray(Image.open(p)) for p in (pictures[0], pictures[-1]))
    assert first.shape[0] >= ROWS * side and first.shape[1] >= COLUMNS * side and (first != last).any()
    monkeypatch.delenv(progress.LIVE)
    assert train("alone") == watched
