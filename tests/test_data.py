"""Prepared data: whole or not at all, unchanged since they were written, and refused with a sentence."""

from pathlib import Path

import pytest
import torch

from dmd.config import Params
from dmd.data import SPLITS, load_split
from dmd.errors import DataError
from dmd.files import new_folder, sha256, write_bytes
from dmd.preparation import prepare


def test_the_splits_are_the_whole_data_set_once(data_folder: Path, params: Params) -> None:
    from sklearn.datasets import load_digits

    splits = {name: load_split(data_folder, name) for name in SPLITS}
    assert [len(s.images) for s in splits.values()] == [1797 - 450, params.data.validation, params.data.test]
    together = torch.cat([s.images[:].flatten(1) for s in splits.values()])
    original = torch.from_numpy(load_digits().data * (255 / 16)).round().to(torch.uint8)
    assert sorted(map(bytes, together.numpy())) == sorted(map(bytes, original.numpy()))


def test_labels_belong_to_their_images(data_folder: Path) -> None:
    from sklearn.datasets import load_digits

    digits = load_digits()
    by_image = {
        (d * (255 / 16)).round().astype("uint8").tobytes(): int(t)
        for d, t in zip(digits.data, digits.target, strict=True)
    }
    split = load_split(data_folder, "test")
    assert [by_image[bytes(i)] for i in split.images[:].flatten(1).numpy()] == split.labels.tolist()
    words = [f"a handwritten {split.class_names[i]}" for i in split.labels.tolist()]
    assert split.captions == words and split.class_names[7] == "seven"


def test_preparing_twice_gives_the_same_bytes(data_folder: Path, params: Params, tmp_path: Path) -> None:
    prepare(params.data, tmp_path / "again")
    assert sha256(tmp_path / "again") == sha256(data_folder)
    prepare(params.data.model_copy(update={"seed": 1}), tmp_path / "other")
    assert sha256(tmp_path / "other") != sha256(data_folder)


def test_a_changed_byte_is_found(data_folder: Path, params: Params, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    prepare(params.data, folder)
    file = folder / "train.safetensors"
    content = bytearray(file.read_bytes())
    content[-100] ^= 1
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"train\.safetensors has changed"):
        load_split(folder, "train")
    assert len(load_split(folder, "test").images) == params.data.test


def test_splits_that_leave_nothing_are_refused(params: Params, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="leaves nothing to train on: digits has 1797 images"):
        prepare(params.data.model_copy(update={"test": 1700}), tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(OSError, match="No space"), new_folder(out) as folder:
        (folder / "half").write_text("x")
        raise OSError(28, "No space left on device")
    assert list(tmp_path.iterdir()) == []
    with new_folder(out) as folder:
        (folder / "a").write_text("1")
    with pytest.raises(RuntimeError), new_folder(out) as folder:
        raise RuntimeError
    assert (out / "a").read_text() == "1" and [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_file_is_never_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "metrics.json"
    write_bytes(file, b"old")

    def full(self: Path, data: bytes) -> int:
        self.open("wb").write(data[:2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        write_bytes(file, b"new content")
    assert file.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1
