"""Prepared data are complete or absent, reproducible, resumable, and checked against their hashes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dmd.config import DataConfig, Params
from dmd.data.shards import to_unit
from dmd.data.splits import SPLITS, load_split, load_splits, split_sha256
from dmd.errors import DataError
from dmd.preparation.images import fit_image
from dmd.preparation.prepare import prepare
from dmd.storage.files import new_folder, sha256, write_bytes


def test_the_splits_hold_every_image_once(data_folder: Path, params: Params) -> None:
    from sklearn.datasets import load_digits

    splits = {name: load_split(data_folder, name) for name in SPLITS}
    assert [len(s.images) for s in splits.values()] == [1797 - 450, params.data.validation, params.data.test]
    together = torch.cat([s.images[:].flatten(1) for s in splits.values()])
    original = torch.from_numpy(load_digits().data * (255 / 16)).round().to(torch.uint8)
    assert sorted(map(bytes, together.numpy())) == sorted(map(bytes, original.numpy()))


def test_every_image_keeps_its_label(data_folder: Path) -> None:
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


def test_a_changed_byte_is_an_error(data_folder: Path, params: Params, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    prepare(params.data, folder)
    file = folder / "train.safetensors"
    content = bytearray(file.read_bytes())
    content[-100] ^= 1
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"train\.safetensors has changed"):
        load_split(folder, "train")
    assert len(load_split(folder, "test").images) == params.data.test


def test_splits_that_leave_no_training_images_are_an_error(params: Params, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="leaves nothing to train on: digits has 1797 images"):
        prepare(params.data.model_copy(update={"test": 1700}), tmp_path / "data")
    assert not (tmp_path / "data").exists()


COLOURS = torch.arange(40)[:, None] * torch.tensor([1, 2, 3])


@pytest.fixture
def coloured(params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DataConfig:
    """40 images in two classes of different colours, in shards of 7."""
    monkeypatch.setenv("DMD_SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.setattr("dmd.preparation.prepare.SHARD_IMAGES", 7)
    for i, colour in enumerate(COLOURS.tolist()):
        folder = tmp_path / "in" / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), tuple(colour)).save(folder / f"{i:02d}.png")
    changes = {"source": "folder", "folder": str(tmp_path / "in"), "channels": 3, "validation": 8, "test": 3}
    return params.data.model_copy(update=changes)


def test_shards_are_read_as_one_array(coloured: DataConfig, tmp_path: Path) -> None:
    assert prepare(coloured, tmp_path / "out").counts == {"train": 29, "validation": 8, "test": 3}
    assert len(list((tmp_path / "out").glob("train*.safetensors"))) == 5
    splits = [load_split(tmp_path / "out", name) for name in SPLITS]
    together = torch.cat([s.images[:] for s in splits])
    assert together.shape == (40, 3, 8, 8) and (together == together[:, :, :1, :1]).all()
    assert sorted(together[:, :, 0, 0].tolist()) == COLOURS.tolist()
    train = splits[0]
    assert train.labels.tolist() == (train.images[:][:, 0, 0, 0] % 2).tolist() and len(train.captions) == 29
    index = torch.tensor([28, 0, 7, 7, 13, 14])
    assert torch.equal(train.images[index], train.images[:][index])
    assert torch.equal(torch.cat(list(train.images.split(10))), train.images[:])
    assert torch.equal(train.images.unit()[index], to_unit(train.images[:])[index])
    assert split_sha256(tmp_path / "out", "train") != sha256(tmp_path / "out/train.safetensors")
    assert split_sha256(tmp_path / "out", "test") == sha256(tmp_path / "out/test.safetensors")


def test_a_changed_byte_in_any_shard_is_an_error(coloured: DataConfig, tmp_path: Path) -> None:
    prepare(coloured, tmp_path / "out")
    file = tmp_path / "out/train.00003.safetensors"
    content = bytearray(file.read_bytes())
    content[-9] ^= 1
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"train\.00003\.safetensors has changed"):
        load_split(tmp_path / "out", "train")
    file.unlink()
    with pytest.raises(DataError, match=r"train\.00003\.safetensors has changed"):
        load_split(tmp_path / "out", "train")


def test_an_interrupted_preparation_resumes(
    coloured: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resumed run repeats no work and gives the result of an uninterrupted run; other parameters start anew."""
    prepare(coloured, tmp_path / "whole")
    read = []

    def fit_or_interrupt(image: Image.Image, size: int, channels: int) -> np.ndarray:
        read.append(image.filename)
        if len(read) == 18:
            raise MemoryError
        return fit_image(image, size, channels)

    monkeypatch.setattr("dmd.preparation.shards.fit_image", fit_or_interrupt)
    monkeypatch.setattr("dmd.preparation.prepare.WORKERS", 1)
    with pytest.raises(MemoryError):
        prepare(coloured, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    read[:] = [""] * 100  # no further interruption
    prepare(coloured.model_copy(update={"max_bad": 0.5}), tmp_path / "out")
    assert len(read) - 100 == 40 - 14  # two complete shards were kept
    assert sha256(tmp_path / "out") == sha256(tmp_path / "whole")
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.slow
def test_a_kill_while_shards_are_moved_loses_nothing(
    coloured: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some shards have already left the scratch folder, and the output folder does not exist yet."""
    prepare(coloured, tmp_path / "whole")

    def kill(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("dmd.preparation.prepare.new_manifest", kill)
        with pytest.raises(KeyboardInterrupt):
            prepare(coloured, tmp_path / "data")
    prepare(coloured, tmp_path / "data")
    assert sha256(tmp_path / "data") == sha256(tmp_path / "whole")


def test_a_preparation_resumes_only_with_the_same_files(coloured: DataConfig, tmp_path: Path) -> None:
    broken = tmp_path / "in/a/00.png"
    good = broken.read_bytes()
    broken.write_bytes(b"broken")
    with pytest.raises(DataError, match="1 of 40 images cannot be used"):
        prepare(coloured.model_copy(update={"max_bad": 0.0}), tmp_path / "out")
    broken.write_bytes(good)
    assert sum(prepare(coloured, tmp_path / "out").counts.values()) == 40


def test_a_folder_appears_complete_or_not_at_all(tmp_path: Path) -> None:
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


def test_a_failed_write_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "metrics.json"
    write_bytes(file, b"old")

    def full(self: Path, data: bytes) -> int:
        self.open("wb").write(data[:2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        write_bytes(file, b"new content")
    assert file.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


def test_combined_splits_keep_images_labels_and_captions_in_order(data_folder: Path) -> None:
    train, validation = (load_split(data_folder, name) for name in ("train", "validation"))
    both = load_splits(data_folder, ["train", "validation"])
    n = len(train.labels)
    assert len(both.images) == len(both.labels) == n + len(validation.labels)
    assert torch.equal(both.images[n - 2 : n + 2], torch.cat([train.images[n - 2 :], validation.images[:2]]))
    assert torch.equal(both.labels[n:], validation.labels) and both.captions[n:] == validation.captions
    hashes = {split_sha256(data_folder, *names) for names in (["train"], ["validation"], ["train", "validation"])}
    assert len(hashes) == 3
