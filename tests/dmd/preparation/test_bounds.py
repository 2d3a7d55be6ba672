"""No file makes the stage wait, take all memory, or write to a terminal."""

import gzip
import json
import os
from pathlib import Path

import pytest
from PIL import Image

from dmd.data.splits import load_split
from dmd.errors import DataError
from dmd.preparation.prepare import prepare
from dmd.preparation.sources.arrays import read_idx
from tests.helpers.sources import NewConfig, png_bytes, skipped, write_pictures


def write_table(folder: Path, count: int, **odd: object) -> None:
    """Write pictures and a table captions.jsonl whose fourth row has the values `odd`."""
    write_pictures(folder, count)
    rows = [{"file_name": f"{i:03d}.png", "caption": f"number {i}", **(odd if i == 3 else {})} for i in range(count)]
    (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("place", ["cat/pipe.png", "captions.csv", "a.tar", "classes.txt", "cat/notes"])
def test_a_pipe_or_device_is_named_and_not_opened(new_config: NewConfig, tmp_path: Path, place: str) -> None:
    write_pictures(tmp_path / "in/cat", 12)
    for source in ("folder", "webdataset", "prompts", "mnist"):
        (tmp_path / "in" / place).unlink(missing_ok=True)
        if source == "folder":
            os.mkfifo(tmp_path / "in" / place)
        else:
            (tmp_path / "in" / place).symlink_to("/dev/zero")
        with pytest.raises(DataError, match=f"{place} is a pipe, socket or device, not a file; remove it"):
            prepare(new_config(source=source, folder=tmp_path / "in"), tmp_path / "out")


@pytest.mark.parametrize("captions", ["/dev/zero", "../pipe.csv", ".pipe.csv"])
def test_a_table_that_is_no_file_is_not_opened(new_config: NewConfig, tmp_path: Path, captions: str) -> None:
    """The name comes from the parameters: a device or pipe outside the data folder, or under a hidden name in it."""
    write_pictures(tmp_path / "in", 12)
    for name in ("pipe.csv", "in/.pipe.csv"):
        os.mkfifo(tmp_path / name)
    with pytest.raises(DataError, match=r"^data\.captions: .* is not a file; name one in data\.folder$"):
        prepare(new_config(source="folder", folder=tmp_path / "in", captions=captions), tmp_path / "out")


@pytest.mark.parametrize("source", ["captions.csv", "captions.jsonl", "prompts"])
def test_a_sparse_file_takes_no_memory(new_config: NewConfig, tmp_path: Path, source: str) -> None:
    """It is one line of 64 GiB, and takes no room on the disk."""
    write_pictures(tmp_path / "in", 12)
    file = tmp_path / "in" / ("prompts.txt" if source == "prompts" else source)
    file.write_text("file_name,caption\n" if source == "captions.csv" else "")
    os.truncate(file, 2**36)
    kind = {"source": "prompts"} if source == "prompts" else {"source": "folder", "captions": source}
    with pytest.raises(DataError, match=r"line [12] has more than 8,388,608 characters; divide it"):
        prepare(new_config(folder=tmp_path / "in", **kind), tmp_path / "out")


def test_links_that_lead_to_one_folder_in_a_million_ways_are_refused(new_config: NewConfig, tmp_path: Path) -> None:
    """No link is above itself: each of 30 folders has two links to the next one."""
    write_pictures(tmp_path / "in", 12)
    for i in range(30):
        (tmp_path / f"deep/{i}").mkdir(parents=True)
        for name in ("a", "b"):
            (tmp_path / f"deep/{i}/{name}").symlink_to(f"../{i + 1}")
    (tmp_path / "deep/30").mkdir()
    (tmp_path / "in/cat").symlink_to(tmp_path / "deep/0")
    with pytest.raises(DataError, match=r"links lead to .*/deep/\d+ more than 100 times; remove some"):
        prepare(new_config(source="folder", folder=tmp_path / "in"), tmp_path / "out")


def test_a_pipe_in_a_linked_folder_is_an_unusable_image(new_config: NewConfig, tmp_path: Path) -> None:
    write_pictures(tmp_path / "in/cat", 12)
    write_pictures(tmp_path / "elsewhere", 1, first=50)
    os.mkfifo(tmp_path / "elsewhere/pipe.png")
    (tmp_path / "in/dog").symlink_to(tmp_path / "elsewhere")
    prepared = prepare(new_config(source="folder", folder=tmp_path / "in", max_bad=0.2, seed=1), tmp_path / "out")
    assert [(s.name, s.reason) for s in prepared.skipped] == [("dog/pipe.png", "not a regular file")]


@pytest.mark.parametrize(
    ("caption", "reason"),
    [
        ("\x1b]0;title\x07", "its caption has control characters"),
        ("a \x9b31m cat", "its caption has control characters"),
        ("x" * 10_001, "its caption has more than data.max_caption = 10000 characters"),
        ("\ud800", "its caption is not UTF-8 text (surrogates not allowed)"),
    ],
)
def test_a_caption_that_cannot_be_shown_is_counted(
    new_config: NewConfig, tmp_path: Path, caption: str, reason: str
) -> None:
    write_table(tmp_path / "in", 20, caption=caption)
    chosen = new_config(source="folder", folder=tmp_path / "in", captions="captions.jsonl", max_bad=0.1)
    prepare(chosen, tmp_path / "out")
    assert [why for _, _, why in skipped(tmp_path / "out")] == [reason]


def test_a_long_caption_is_allowed_by_the_parameter(new_config: NewConfig, tmp_path: Path) -> None:
    write_table(tmp_path / "in", 12, caption="x" * 20_000)
    chosen = new_config(source="folder", folder=tmp_path / "in", captions="captions.jsonl", max_caption=20_000)
    prepare(chosen, tmp_path / "out")
    captions = [c for s in ("train", "validation", "test") for c in load_split(tmp_path / "out", s).captions]
    assert max(map(len, captions)) == 20_000


def test_prompts_of_any_length_are_counted_by_the_same_bound(new_config: NewConfig, tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.txt").write_text("\n".join([*(f"prompt {i}" for i in range(20)), "x" * 10**6]))
    texts = pyarrow.DictionaryArray.from_arrays([0, 1] * 5, ["y" * 10**6, "a short one"])
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), tmp_path / "in/b.parquet")
    result = prepare(
        new_config(source="prompts", folder=tmp_path / "in", captions="text", max_bad=0.5), tmp_path / "out"
    )
    assert sum(result.counts.values()) == 25 and len(result.skipped) == 6
    assert {len(s.name) for s in result.skipped} == {1000} and {s.reason[:28] for s in result.skipped} == {
        "its caption has more than da"
    }


@pytest.mark.parametrize("name", ["b\x1b[2J", "\x9b31m", "a\x07"])
def test_a_class_name_with_control_characters_is_an_error_that_shows_them(
    new_config: NewConfig, tmp_path: Path, name: str
) -> None:
    write_pictures(tmp_path / "in/cat", 12)
    write_pictures(tmp_path / "in" / name, 12, first=50)
    with pytest.raises(DataError, match="its name has control characters; rename it") as e:
        prepare(new_config(source="folder", folder=tmp_path / "in"), tmp_path / "out")
    assert str(e.value).isprintable()


def test_file_names_with_control_characters_are_escaped_where_they_are_shown(
    new_config: NewConfig, tmp_path: Path
) -> None:
    write_pictures(tmp_path / "in", 12)
    (tmp_path / "in/\x1b]0;title\x07.png").write_bytes(b"no picture")
    prepare(new_config(source="folder", folder=tmp_path / "in", max_bad=0.1), tmp_path / "out")
    assert [name for _, name, _ in skipped(tmp_path / "out")] == [r"\x1b]0;title\x07.png"]
    with pytest.raises(DataError) as e:
        prepare(new_config(source="folder", folder=tmp_path / "in"), tmp_path / "out")
    assert r"\x1b]0;title\x07.png" in str(e.value) and str(e.value).isprintable()


@pytest.mark.parametrize("kind", ["long", "duplicate", "caption", "many"])
def test_class_names_have_bounds(new_config: NewConfig, tmp_path: Path, kind: str) -> None:
    write_pictures(tmp_path / "in", 12)
    labels = {"long": "9" * 5000, "duplicate": "a", "caption": "a", "many": "a"}
    rows = "".join(f"{i:03d}.png,{labels[kind] if i % 2 else 'b'}\n" for i in range(12))
    (tmp_path / "in/labels.csv").write_text(f"file_name,label\n{rows}")
    changes = {"source": "folder", "captions": "labels.csv"}
    words = "its name has 5,000 characters, more than 255"
    if kind == "caption":
        changes["caption"], words = "{name}" * 1600 + "x" * 300, "its caption is longer than data.max_caption = 1600"
    elif kind != "long":
        from tests.helpers.sources import write_shard

        write_shard(tmp_path / "in/a.tar", 0, 20)
        names = "cat\ncat\ndog\n" if kind == "duplicate" else "".join(f"{i}\n" for i in range(1000))
        (tmp_path / "in/classes.txt").write_text(names)
        changes = {"source": "webdataset"}
        words = "'cat': two classes have this name" if kind == "duplicate" else "1,000 classes, but only 20 images"
    with pytest.raises(DataError, match=words) as e:
        prepare(new_config(folder=tmp_path / "in", max_caption=1600, **changes), tmp_path / "out")
    assert len(str(e.value)) < 500


@pytest.mark.parametrize("value", ["9" * 5000, "[" * 100_000, '{"a":' * 100_000])
def test_json_that_python_cannot_hold_is_one_line(new_config: NewConfig, tmp_path: Path, value: str) -> None:
    write_pictures(tmp_path / "in", 12)
    (tmp_path / "in/captions.jsonl").write_text(f'{{"file_name": "000.png", "caption": {value}}}\n')
    with pytest.raises(DataError, match="line 1: not JSON") as e:
        prepare(new_config(source="folder", folder=tmp_path / "in", captions="captions.jsonl"), tmp_path / "out")
    assert len(str(e.value).splitlines()) == 1


def test_an_idx_file_is_unpacked_as_far_as_its_header_says(tmp_path: Path) -> None:
    file = tmp_path / "images.gz"
    with gzip.open(file, "wb", 1) as content:
        content.write(bytes([0, 0, 8, 1, 0, 0, 0, 9]))
        for _ in range(64):
            content.write(bytes(2**20))
    with pytest.raises(DataError, match=r"truncated or too long for an array of shape \(9,\)"):
        read_idx(file)
    for dimensions, sides in ((3, b"\xff" * 12), (200, b"\xff" * 800)):
        (tmp_path / "images").write_bytes(bytes([0, 0, 8, dimensions]) + sides)
        with pytest.raises(DataError, match="is larger than any idx file of this kind"):
            read_idx(tmp_path / "images")


def test_pillow_keeps_its_own_limit_after_a_preparation(new_config: NewConfig, tmp_path: Path) -> None:
    before = Image.MAX_IMAGE_PIXELS
    write_pictures(tmp_path / "in", 12)
    prepare(new_config(source="folder", folder=tmp_path / "in", max_pixels=4096), tmp_path / "out")
    assert before == Image.MAX_IMAGE_PIXELS


def test_a_parquet_file_of_too_many_row_groups_is_named_before_it_is_read(
    new_config: NewConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A million of them take minutes and gigabytes, since the footer describes each."""
    import pyarrow
    import pyarrow.parquet

    (tmp_path / "in").mkdir()
    texts = pyarrow.table({"text": [f"prompt {i}" for i in range(100)]})
    pyarrow.parquet.write_table(texts, tmp_path / "in/a.parquet", row_group_size=1)
    config = new_config(source="prompts", folder=tmp_path / "in", captions="text")
    assert prepare(config, tmp_path / "out").counts["train"] == 95
    monkeypatch.setattr("dmd.preparation.sources.parquet.MAX_FOOTER", 1000)
    with pytest.raises(DataError, match=r"a\.parquet: its footer has [\d,]+ bytes, more than the 1,000 that"):
        prepare(config, tmp_path / "out")


def test_a_column_that_takes_too_much_memory_is_named_before_it_is_read(
    new_config: NewConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow
    import pyarrow.parquet

    (tmp_path / "in").mkdir()
    texts = pyarrow.table({"text": ["a", "x" * 10**6], "other": ["y" * 10**6, "b"]})
    pyarrow.parquet.write_table(texts, tmp_path / "in/a.parquet")
    monkeypatch.setattr("dmd.preparation.sources.parquet.MAX_CHUNK", 10**5)
    with pytest.raises(DataError, match=r"a\.parquet: row group 0 has [\d,]+ bytes in the column .text., more"):
        prepare(new_config(source="prompts", folder=tmp_path / "in", captions="text"), tmp_path / "out")


def test_long_values_of_a_hugging_face_data_set_are_counted_without_being_read(
    new_config: NewConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    rows = {
        "image": [{"bytes": png_bytes(i) if i != 3 else b"x" * 2**21, "path": None} for i in range(20)],
        "words": [f"no. {i}" if i != 5 else "é" * 10**6 for i in range(20)],
    }
    features = datasets.Features({"image": datasets.Image(), "words": datasets.Value("string")})
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "in")
    chosen = new_config(
        source="huggingface", folder=tmp_path / "in", captions="words", max_pixels=1024, max_bad=0.2, seed=3
    )
    prepare(chosen, tmp_path / "out")
    assert sorted(reason for *_, reason in skipped(tmp_path / "out")) == [
        "its caption has 2,000,000 bytes, more than the 40,000 that are read",
        "its picture has 2,097,152 bytes, more than the 1,056,768 that are read",
    ]


@pytest.mark.parametrize(("limit", "words"), [("MAX_FOOTER", "its footer has"), ("MAX_CHUNK", "in the column 'words'")])
def test_parquet_files_of_a_hugging_face_data_set_are_checked_before_they_are_converted(
    new_config: NewConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, words: str
) -> None:
    datasets = pytest.importorskip("datasets")
    import pyarrow
    import pyarrow.parquet

    (tmp_path / "in").mkdir()
    images = [{"bytes": png_bytes(i), "path": None} for i in range(20)]
    table = pyarrow.table({"image": images, "words": ["x" * 1000] * 20})
    pyarrow.parquet.write_table(table, tmp_path / "in/train.parquet", row_group_size=2)
    (tmp_path / "in/damaged.parquet").write_bytes(b"PAR1")
    monkeypatch.setattr(datasets, "load_dataset", pytest.fail)
    monkeypatch.setattr(f"dmd.preparation.sources.parquet.{limit}", 500)
    with pytest.raises(DataError, match=rf"train\.parquet: .*{words}.* that are read; write it again with "):
        prepare(new_config(source="huggingface", url=str(tmp_path / "in"), captions="words"), tmp_path / "out")
