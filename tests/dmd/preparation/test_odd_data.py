"""Odd data are never misread silently: tables, splits, labels, links, shards and interrupted preparations."""

import errno
import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dmd.data.splits import load_split
from dmd.errors import DataError
from dmd.preparation.prepare import prepare
from dmd.storage.files import sha256
from tests.helpers.sources import (
    NewConfig,
    picture,
    png_bytes,
    skipped,
    stored,
    values,
    write_mnist,
    write_pictures,
    write_shard,
)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", "file_name,caption\n000.png,a cat, on a sofa\n", "line 2: more fields than columns"),
        ("a.csv", 'file_name,caption\n000.png,"12" pipe\n', "cannot be read"),
        ("a.csv", 'file_name,caption\n000.png,"a cat\n001.png,a dog\n', "cannot be read"),
        ("a.jsonl", '{"file_name": "000.png", "caption": ["a"]}\n', r'line 1: caption is \["a"\], not text'),
        ("a.jsonl", '{"file_name": "000.png", "caption": true}\n', "line 1: caption is true, not text"),
    ],
)
def test_a_table_that_would_be_misread_is_an_error(
    new_config: NewConfig, tmp_path: Path, name: str, content: str, words: str
) -> None:
    write_pictures(tmp_path / "in", 9)
    (tmp_path / "in" / name).write_text(content)
    with pytest.raises(DataError, match=words) as e:
        prepare(new_config(source="folder", folder=tmp_path / "in", captions=name), tmp_path / "out")
    assert "\n" not in str(e.value)


def test_prompts_that_are_not_text_are_an_error_and_a_byte_order_mark_is_dropped(
    new_config: NewConfig, tmp_path: Path
) -> None:
    import pyarrow
    import pyarrow.parquet

    (tmp_path / "in").mkdir()
    (tmp_path / "in/valley.txt").write_text("\ufeffa red cat\na dog\na bird\n", encoding="utf-8")
    chosen = new_config(source="prompts", folder=tmp_path / "in", captions="prompt", test=1, validation=1)
    assert prepare(chosen, tmp_path / "out").counts == {"train": 1, "validation": 1, "test": 1}
    captions = [c for s in ("train", "validation", "test") for c in load_split(tmp_path / "out", s, False).captions]
    assert sorted(captions) == ["a bird", "a dog", "a red cat"]
    pyarrow.parquet.write_table(pyarrow.table({"prompt": [b"a fish"]}), tmp_path / "in/b.parquet")
    with pytest.raises(DataError, match=r"'prompt' \(data\.captions\) is of type binary, not text"):
        prepare(chosen, tmp_path / "other")


@pytest.mark.parametrize("tops", [("test", "validation"), ("Test", "cat"), ("testing", "training", "dog")])
def test_folders_of_splits_are_not_classes(new_config: NewConfig, tmp_path: Path, tops: tuple[str, ...]) -> None:
    for i, top in enumerate(tops):
        write_pictures(tmp_path / "in" / top / "cat", 9, first=20 * i)
    with pytest.raises(DataError, match="are the folders splits or classes"):
        prepare(new_config(source="folder", folder=tmp_path / "in"), tmp_path / "out")


def test_the_name_of_a_shard_gives_its_split(new_config: NewConfig, tmp_path: Path) -> None:
    write_shard(tmp_path / "in/imagenet1k-train-00.tar", 0, 20)
    write_shard(tmp_path / "in/imagenet1k-validation-00.tar", 100, 9)
    prepare(new_config(source="webdataset", folder=tmp_path / "in", validation="all"), tmp_path / "out")
    assert sorted(values(stored(tmp_path / "out")["validation"])) == list(range(100, 109))
    write_shard(tmp_path / "in/train-test-00.tar", 0, 20)
    with pytest.raises(DataError, match=r"train-test-00\.tar: the name contains test and train"):
        prepare(new_config(source="webdataset", folder=tmp_path / "in"), tmp_path / "other")


def test_copies_of_held_out_images_in_train_are_counted(new_config: NewConfig, tmp_path: Path) -> None:
    write_pictures(tmp_path / "in/train/cat", 20)
    write_pictures(tmp_path / "in/test/cat", 6, first=17)
    manifest = prepare(new_config(source="folder", folder=tmp_path / "in", test="all", validation=1), tmp_path / "out")
    train = values(stored(tmp_path / "out")["train"])
    assert manifest.also_in_train == {"validation": 0, "test": len({17, 18, 19} & set(train))}
    assert manifest.also_in_train["test"] >= 2


def test_a_link_to_a_parent_folder_is_an_error(new_config: NewConfig, tmp_path: Path) -> None:
    write_pictures(tmp_path / "in/cat", 9)
    (tmp_path / "in/cat/up").symlink_to("..")
    with pytest.raises(DataError, match="cat/up is a link to a folder that it lies in; remove it"):
        prepare(new_config(source="folder", folder=tmp_path / "in"), tmp_path / "out")


def test_an_unreadable_folder_is_an_error(
    new_config: NewConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pictures(tmp_path / "in/cat", 9)
    write_pictures(tmp_path / "in/cat/more", 9, first=20)
    plain = os.scandir

    def scandir(path: str) -> object:
        if str(path).endswith("more"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return plain(path)

    monkeypatch.setattr("os.scandir", scandir)
    with pytest.raises(DataError, match="cat/more cannot be read: Permission denied"):
        prepare(new_config(source="folder", folder=tmp_path / "in"), tmp_path / "out")


def test_a_broken_link_and_a_name_that_is_not_utf8_are_one_image_each(new_config: NewConfig, tmp_path: Path) -> None:
    write_pictures(tmp_path / "in/cat", 20)
    (tmp_path / "in/cat/zz.png").symlink_to("nothing.png")
    (tmp_path / "in/cat/000.png").rename(os.fsdecode(os.fsencode(tmp_path / "in/cat") + b"/caf\xe9.png"))
    manifest = prepare(new_config(source="folder", folder=tmp_path / "in", max_bad=0.1), tmp_path / "out")
    assert sum(manifest.counts.values()) == 20 and [name for _, name, _ in manifest.skipped] == ["cat/zz.png"]


def test_classes_named_by_numbers_are_in_numeric_order(new_config: NewConfig, tmp_path: Path) -> None:
    for i in range(11):
        write_pictures(tmp_path / f"in/{i}", 3, first=10 * i)
    prepare(new_config(source="folder", folder=tmp_path / "in"), tmp_path / "out")
    for split in stored(tmp_path / "out").values():
        assert split.class_names == tuple(str(i) for i in range(11))
        assert split.labels.tolist() == [v // 10 for v in values(split)]


def test_a_line_break_in_a_caption_becomes_a_space(new_config: NewConfig, tmp_path: Path) -> None:
    """Captions are stored one per line, so a line break would shift all later captions."""
    write_pictures(tmp_path / "in/cat", 9)
    write_pictures(tmp_path / "in/d\u2028g", 9, first=20)
    prepare(new_config(source="folder", folder=tmp_path / "in", caption="a photo\nof a {name}\n"), tmp_path / "out")
    for split in stored(tmp_path / "out").values():
        assert split.captions == [f"a photo of a {'d g' if v >= 20 else 'cat'}" for v in values(split)]
        assert split.class_captions == ("a photo of a cat", "a photo of a d g")


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def test_the_plain_image_of_a_sample_is_read_and_an_empty_caption_is_missing(
    new_config: NewConfig, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    with tarfile.open(tmp_path / "in/a.tar", "w") as tar:
        for i in range(20):
            add(tar, f"{i:04d}.depth.png", png_bytes(200))
            add(tar, f"{i:04d}.png", png_bytes(i))
            add(tar, f"{i:04d}.txt", b" \n" if i == 7 else b"x")
        for ending in ("png", "bmp"):
            add(tar, f"9999.{ending}", png_bytes(9))
        add(tar, "9999.txt", b"x")
    prepare(new_config(source="webdataset", folder=tmp_path / "in", captions="txt", max_bad=0.2), tmp_path / "out")
    assert sorted(v for s in stored(tmp_path / "out").values() for v in values(s)) == [i for i in range(20) if i != 7]
    assert {name: why for _, name, why in skipped(tmp_path / "out")} == {
        "a.tar/0007": ".txt is empty",
        "a.tar/9999": "several images: png, bmp",
    }


@pytest.mark.parametrize("text", ["red\ngreen\nblue", "\ufeffred\ngreen\nblue\n\n"])
def test_the_last_class_needs_no_newline(new_config: NewConfig, tmp_path: Path, text: str) -> None:
    write_shard(tmp_path / "in/a.tar", 0, 30)
    (tmp_path / "in/classes.txt").write_text(text, encoding="utf-8")
    prepare(new_config(source="webdataset", folder=tmp_path / "in"), tmp_path / "out")
    assert load_split(tmp_path / "out", "train").class_names == ("red", "green", "blue")


def test_a_shard_that_ends_in_zeros_is_an_error(new_config: NewConfig, tmp_path: Path) -> None:
    """An interrupted download may have its full length but end in zeros."""
    shard = tmp_path / "in/a.tar"
    write_shard(shard, 0, 1500)
    with tarfile.open(shard) as tar:
        boundary = tar.getmembers()[30].offset
    content = shard.read_bytes()
    shard.write_bytes(content[:boundary] + bytes(len(content) - boundary))
    with pytest.raises(DataError, match=r"a\.tar is truncated"):
        prepare(new_config(source="webdataset", folder=tmp_path / "in"), tmp_path / "out")


def test_the_reasons_for_skipped_files_are_the_same_in_every_run(new_config: NewConfig, tmp_path: Path) -> None:
    """A different text would change the hash of the folder and make every stage run again."""
    write_shard(tmp_path / "in/a.tar", 0, 20)
    with tarfile.open(tmp_path / "in/a.tar", "a") as tar:
        for name, content in (("9999.png", b"no picture"), ("9999.cls", b"0")):
            add(tar, name, content)
    for out in ("one", "two"):
        prepare(new_config(source="webdataset", folder=tmp_path / "in", max_bad=0.1), tmp_path / out)
    assert sha256(tmp_path / "one") == sha256(tmp_path / "two") and len(skipped(tmp_path / "one")) == 1


def test_a_temporary_disk_error_does_not_skip_an_image(
    new_config: NewConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pictures(tmp_path / "in/cat", 20)
    plain = Image.open

    def fails(file: Path, formats: tuple[str, ...]) -> Image.Image:
        if str(file).endswith("007.png"):
            raise OSError(errno.EIO, "Input/output error")
        return plain(file, formats=formats)

    chosen = new_config(source="folder", folder=tmp_path / "in", max_bad=0.5)
    with monkeypatch.context() as patch, pytest.raises(DataError, match=r"007\.png cannot be read: Input/output error"):
        patch.setattr("PIL.Image.open", fails)
        prepare(chosen, tmp_path / "out")
    assert prepare(chosen, tmp_path / "out").skipped == []


def test_a_repaired_image_is_read_again(new_config: NewConfig, tmp_path: Path) -> None:
    """The list of unusable files is not kept, so the image may have its former modification time."""
    write_pictures(tmp_path / "in/cat", 20)
    file = tmp_path / "in/cat/007.png"
    whole, times = file.read_bytes(), (1, 1)
    file.write_bytes(bytes(len(whole)))
    os.utime(file, times)
    with pytest.raises(DataError, match="1 of 20 images cannot be used"):
        prepare(new_config(source="folder", folder=tmp_path / "in"), tmp_path / "out")
    file.write_bytes(whole)
    os.utime(file, times)
    assert prepare(new_config(source="folder", folder=tmp_path / "in"), tmp_path / "out").skipped == []


def test_a_changed_class_name_in_the_manifest_is_an_error(new_config: NewConfig, tmp_path: Path) -> None:
    write_pictures(tmp_path / "in/cat", 9)
    prepare(new_config(source="folder", folder=tmp_path / "in"), tmp_path / "out")
    file = tmp_path / "out/manifest.json"
    content = file.read_bytes()
    for i in range(len(content)):
        file.write_bytes(content[:i] + bytes([content[i] ^ 0x80]) + content[i + 1 :])
        with pytest.raises(DataError):
            load_split(tmp_path / "out", "train")
    file.write_bytes(content.replace(b'"cat"', b'"bat"'))
    with pytest.raises(DataError, match=r"manifest\.json has changed since it was written; run the data stage again$"):
        load_split(tmp_path / "out", "train")
    file.write_text(json.dumps(json.loads(content)))  # another layout of the same content
    assert load_split(tmp_path / "out", "train").class_names == ("cat",)


def test_a_damaged_compressed_file_is_an_error_of_one_line(new_config: NewConfig, tmp_path: Path) -> None:
    write_mnist(tmp_path / "in", ".gz")
    file = tmp_path / "in/train-images-idx3-ubyte.gz"
    content = bytearray(file.read_bytes())
    content[40] ^= 0x55
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"is damaged|is larger than any"):
        prepare(new_config(source="mnist", folder=tmp_path / "in", size=28), tmp_path / "out")


def test_transparent_pixels_of_16_bits_are_white_and_32_bits_are_unusable(
    new_config: NewConfig, tmp_path: Path
) -> None:
    write_pictures(tmp_path / "in", 9)
    deep = Image.fromarray(np.full((8, 8), 5, np.uint16))
    deep.save(tmp_path / "in/clear.png", transparency=5)
    Image.fromarray(np.full((8, 8), 200, np.int32)).save(tmp_path / "in/deep.tiff")
    prepare(new_config(source="folder", folder=tmp_path / "in", max_bad=0.2), tmp_path / "out")
    assert max(v for s in stored(tmp_path / "out").values() for v in values(s)) == 255
    assert [name for _, name, _ in skipped(tmp_path / "out")] == ["deep.tiff"]


def test_splits_of_the_hub_that_disagree_are_an_error(new_config: NewConfig, tmp_path: Path) -> None:
    """With other class names, labels would change their meaning; of two test splits, one would be lost."""
    datasets = pytest.importorskip("datasets")

    def rows(*names: str) -> object:
        features = datasets.Features({"image": datasets.Image(), "kind": datasets.ClassLabel(names=list(names))})
        rows = {"image": [picture(i) for i in range(12)], "kind": [i % 2 for i in range(12)]}
        return datasets.Dataset.from_dict(rows, features=features)

    def check_refusal(splits: dict[str, object], words: str) -> None:
        folder = tmp_path / words[:3]
        datasets.DatasetDict(splits).save_to_disk(folder)
        with pytest.raises(DataError, match=words):
            prepare(new_config(source="huggingface", folder=folder), tmp_path / "out")

    check_refusal({"train": rows("a", "b"), "test": rows("b", "a")}, "split test has other class names than train")
    two = {"train": rows("a", "b"), "test_matched": rows("a", "b"), "test_mismatched": rows("a", "b")}
    check_refusal(two, "test_matched and test_mismatched can serve as test; name one of them")
