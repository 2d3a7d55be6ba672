"""Each data source is read from small files; unusable files are listed and skipped, or are an error."""

import csv
import io
import json
from pathlib import Path
from typing import get_args

import pytest
from pydantic import ValidationError

from dmd.config import DataConfig
from dmd.data.splits import load_split
from dmd.errors import DataError
from dmd.preparation.prepare import SKIPPED, prepare
from dmd.preparation.sources import SOURCES
from tests.helpers.sources import NewConfig, picture, skipped, stored, values, write_mnist, write_pictures


def test_params_accept_the_names_of_the_table() -> None:
    assert set(SOURCES) == set(get_args(DataConfig.model_fields["source"].annotation))


def test_a_source_of_known_size_has_that_size(new_config: NewConfig) -> None:
    """The digits come with scikit-learn, so that their line of the table can be compared with the files."""
    source = SOURCES["digits"].list_records(new_config(source="digits"))
    assert {split: len(pool) for split, pool in source.pools.items()} == SOURCES["digits"].images
    assert len(source.class_names) == SOURCES["digits"].classes


# Folders of images


def test_folder_names_are_the_classes(new_config: NewConfig, tmp_path: Path) -> None:
    write_pictures(tmp_path / "in/cat", 10)
    write_pictures(tmp_path / "in/dog/deeper", 10, first=100)
    (tmp_path / "in/dog/notes.txt").write_text("not an image")
    summary = prepare(new_config(source="folder", folder=tmp_path / "in"), tmp_path / "out")
    assert (summary.counts, summary.skipped) == ({"train": 15, "validation": 2, "test": 3}, [])
    assert not (tmp_path / "out" / SKIPPED).exists()
    grey_values = []
    for split in stored(tmp_path / "out").values():
        assert split.class_names == ("cat", "dog") and split.class_captions == ("a cat", "a dog")
        assert split.labels.tolist() == [int(v >= 100) for v in values(split)]
        assert split.captions == [f"a {split.class_names[y]}" for y in split.labels.tolist()]
        grey_values += values(split)
    assert sorted(grey_values) == [*range(10), *range(100, 110)]


def test_a_folder_with_its_own_splits_keeps_the_splits_apart(new_config: NewConfig, tmp_path: Path) -> None:
    """The folder `test` is the test split, and none of its images is in the other splits."""
    for top, first in (("train", 0), ("test", 100)):
        for name in ("cat", "dog"):
            write_pictures(tmp_path / "in" / top / name, 8, first + (50 if name == "dog" else 0))
    prepare(new_config(source="folder", folder=tmp_path / "in", test="all"), tmp_path / "out")
    splits = stored(tmp_path / "out")
    assert sorted(values(splits["test"])) == [*range(100, 108), *range(150, 158)]
    assert sorted(values(splits["train"]) + values(splits["validation"])) == [*range(8), *range(50, 58)]
    with pytest.raises(
        DataError, match=r"data\.test: 17 is more than the 16 images in the data set's test split; use fewer"
    ):
        prepare(new_config(source="folder", folder=tmp_path / "in", test=17), tmp_path / "out")
    with pytest.raises(DataError, match=r"data\.validation: all needs a validation split in the data set"):
        prepare(new_config(source="folder", folder=tmp_path / "in", validation="all"), tmp_path / "out")
    write_pictures(tmp_path / "in/bird", 1)
    with pytest.raises(DataError, match="test beside bird: are the folders splits or classes"):
        prepare(new_config(source="folder", folder=tmp_path / "in"), tmp_path / "out")


def test_unusable_files_are_listed_and_skipped_up_to_max_bad(new_config: NewConfig, tmp_path: Path) -> None:
    write_pictures(tmp_path / "in/cat", 96)
    (tmp_path / "in/cat/000.png").write_bytes(b"not a picture")
    whole = (tmp_path / "in/cat/001.png").read_bytes()
    (tmp_path / "in/cat/001.png").write_bytes(whole[:-28])
    (tmp_path / "in/cat/002.png").write_bytes(b"")
    (tmp_path / "in/dog").mkdir()
    summary = prepare(new_config(source="folder", folder=tmp_path / "in", max_bad=0.05), tmp_path / "out")
    assert sum(summary.counts.values()) == 93 and len(summary.skipped) == 4
    reasons = {name: reason for _, name, reason in skipped(tmp_path / "out")}
    assert set(reasons) == {"cat/000.png", "cat/001.png", "cat/002.png", "dog"} and all(reasons.values())
    assert reasons["dog"] == "a class without images"
    splits = stored(tmp_path / "out")
    assert splits["train"].class_names == ("cat",)
    assert sorted(v for s in splits.values() for v in values(s)) == list(range(3, 96))
    with pytest.raises(DataError, match=r"\d of 97 images cannot be used, more than data\.max_bad = 0\.02") as e:
        prepare(new_config(source="folder", folder=tmp_path / "in", max_bad=0.02), tmp_path / "other")
    assert not (tmp_path / "other").exists() and "\n" not in str(e.value)
    assert Path(str(e.value).rsplit("so far: ")[1]).is_file()


def test_a_class_without_training_images_is_an_error(new_config: NewConfig, tmp_path: Path) -> None:
    write_pictures(tmp_path / "in/cat", 20)
    (tmp_path / "in/dog").mkdir()
    (tmp_path / "in/dog/a.png").write_bytes(b"broken")
    with pytest.raises(DataError, match="class 'dog' has no usable image to train on"):
        prepare(new_config(source="folder", folder=tmp_path / "in", max_bad=0.5), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_images_beside_folders_of_classes_are_an_error(new_config: NewConfig, tmp_path: Path) -> None:
    write_pictures(tmp_path / "in/cat", 9)
    picture(3).save(tmp_path / "in/loose.png")
    with pytest.raises(DataError, match=r"both in class folders and beside them, such as loose\.png"):
        prepare(new_config(source="folder", folder=tmp_path / "in"), tmp_path / "out")


def test_a_folder_without_classes_has_one_class(new_config: NewConfig, tmp_path: Path) -> None:
    write_pictures(tmp_path / "in", 9)
    prepare(new_config(source="folder", folder=tmp_path / "in"), tmp_path / "out")
    train = load_split(tmp_path / "out", "train")
    assert train.class_names == ("image",) and train.labels.tolist() == [0] * 4


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_a_table_gives_captions_and_labels(new_config: NewConfig, tmp_path: Path, ending: str) -> None:
    """Incomplete images and rows are listed; all other images keep their captions and labels."""
    write_pictures(tmp_path / "in", 20)
    rows = [
        {"file_name": f"{i:03d}.png", "caption": f'no. {i}, "quoted"\nline', "label": "ab"[i % 2]} for i in range(20)
    ]
    rows[4]["caption"], rows[5]["label"] = "", ""
    rows[6]["file_name"] = "elsewhere.png"
    text = io.StringIO()
    if ending == "csv":
        writer = csv.DictWriter(text, ["file_name", "caption", "label"])
        writer.writeheader()
        writer.writerows(rows)
    else:
        text.write("".join(json.dumps(r) + "\n" for r in rows))
    (tmp_path / f"in/table.{ending}").write_text(text.getvalue())
    prepare(
        new_config(source="folder", folder=tmp_path / "in", captions=f"table.{ending}", max_bad=0.3), tmp_path / "out"
    )
    assert sorted((name, reason) for _, name, reason in skipped(tmp_path / "out")) == [
        ("004.png", "no caption in the table"),
        ("005.png", "no label in the table"),
        ("006.png", "no row in the table"),
        ("elsewhere.png", "a row without an image"),
    ]
    for split in stored(tmp_path / "out").values():
        assert split.class_names == ("a", "b")
        assert split.captions == [f'no. {v}, "quoted" line' for v in values(split)]
        assert split.labels.tolist() == [v % 2 for v in values(split)]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", "file_name,caption\n000.png,x\n000.png,y\n", r"line 3: 000\.png is named twice"),
        ("a.csv", "file,text\n000.png,x\n", "needs columns file_name and caption or label"),
        ("a.jsonl", '{"file_name": "000.png", "caption": "x"}\n{"file_na', "line 2: not JSON"),
        ("b.csv", None, r"b\.csv is not a file; name one in data\.folder"),
    ],
)
def test_a_table_that_cannot_be_read_is_an_error(
    new_config: NewConfig, tmp_path: Path, name: str, content: str | None, words: str
) -> None:
    write_pictures(tmp_path / "in", 9)
    if content is not None:
        (tmp_path / "in" / name).write_text(content)
    with pytest.raises(DataError, match=words) as e:
        prepare(new_config(source="folder", folder=tmp_path / "in", captions=name), tmp_path / "out")
    assert "\n" not in str(e.value)


# Files of MNIST and other data sets


@pytest.mark.parametrize(("ending", "inside"), [(".gz", "."), ("", "."), ("", "FashionMNIST/raw")])
def test_fashion_mnist_is_read_from_its_files(new_config: NewConfig, tmp_path: Path, ending: str, inside: str) -> None:
    write_mnist(tmp_path / "in" / inside, ending)
    config = new_config(source="fashion_mnist", folder=tmp_path / "in", size=28, test="all", validation=5)
    assert prepare(config, tmp_path / "out").counts == {"train": 25, "validation": 5, "test": 10}
    splits = stored(tmp_path / "out")
    assert sorted(values(splits["test"])) == list(range(100, 110)) and splits["test"].shape == (1, 28, 28)
    assert splits["train"].labels.tolist() == [v % 10 for v in values(splits["train"])]
    assert splits["train"].class_captions[9] == "a Ankle boot"


def test_a_damaged_or_missing_idx_file_is_an_error(new_config: NewConfig, tmp_path: Path) -> None:
    write_mnist(tmp_path / "in", "")
    config = new_config(source="mnist", folder=tmp_path / "in", size=28)
    file = tmp_path / "in/train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(DataError, match="truncated or too long"):
        prepare(config, tmp_path / "out")
    file.unlink()
    with pytest.raises(DataError, match=r"has no train-images-idx3-ubyte or train-images-idx3-ubyte\.gz"):
        prepare(config, tmp_path / "out")


@pytest.mark.parametrize("source", ["mnist", "cifar10", "celeba"])
def test_a_failed_download_is_an_error_of_one_line(
    new_config: NewConfig, tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*args: object, **kwargs: object) -> None:
        raise OSError("Network is unreachable")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    monkeypatch.setattr("torchvision.datasets.celeba.download_file_from_google_drive", offline)
    with pytest.raises(DataError, match=rf"data\.source: {source} could not be loaded .* set data\.folder") as e:
        prepare(new_config(source=source, size=28), tmp_path / "out")
    assert "\n" not in str(e.value)


# Other sources


def test_a_data_set_of_hugging_face_is_read(new_config: NewConfig, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {
            "picture": datasets.Image(),
            "kind": datasets.ClassLabel(names=["even", "odd"]),
            "words": datasets.Value("string"),
        }
    )

    def data_set(first: int) -> object:
        rows = range(first, first + 12)
        columns = {
            "picture": [picture(i) for i in rows],
            "kind": [i % 2 for i in rows],
            "words": [f"no. {i}" for i in rows],
        }
        return datasets.Dataset.from_dict(columns, features=features)

    datasets.DatasetDict({"train": data_set(0), "test": data_set(100)}).save_to_disk(tmp_path / "in")
    config = new_config(source="huggingface", folder=tmp_path / "in", captions="words", test="all")
    assert prepare(config, tmp_path / "out").counts == {"train": 10, "validation": 2, "test": 12}
    for split in stored(tmp_path / "out").values():
        assert split.class_names == ("even", "odd") and split.labels.tolist() == [v % 2 for v in values(split)]
        assert split.captions == [f"no. {v}" for v in values(split)]
    with pytest.raises(DataError, match="there are picture, kind, words"):
        prepare(new_config(source="huggingface", folder=tmp_path / "in", captions="text"), tmp_path / "out")


def test_prompts_are_read_without_images(new_config: NewConfig, tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.txt").write_text("a red cat\n\na  blue dog\n")
    (tmp_path / "in/test.txt").write_text("a green bird\n")
    table = pyarrow.table({"prompt": ["a fish", "an ant", None, "a bee"]})
    pyarrow.parquet.write_table(table, tmp_path / "in/b.parquet")
    config = new_config(source="prompts", folder=tmp_path / "in", captions="prompt", test="all", validation=1)
    assert prepare(config, tmp_path / "out").counts == {"train": 4, "validation": 1, "test": 1}
    splits = {s: load_split(tmp_path / "out", s, with_images=False) for s in ("train", "validation", "test")}
    assert splits["test"].captions == ["a green bird"] and len(splits["train"].images) == 0
    together = splits["train"].captions + splits["validation"].captions
    assert sorted(together) == ["a bee", "a blue dog", "a fish", "a red cat", "an ant"]
    train = splits["train"]
    assert [train.class_captions[y] for y in train.labels.tolist()] == train.captions and train.shape == (1, 8, 8)
    with pytest.raises(DataError, match="holds only prompts"):
        load_split(tmp_path / "out", "train")


def test_a_missing_library_is_an_error_that_names_the_extra(
    new_config: NewConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(DataError, match=r"needs the package datasets: pip install '\.\[huggingface\]'"):
        prepare(new_config(source="huggingface", folder=tmp_path), tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"source": "folder"}, "folder: none is not allowed; source: folder needs a folder"),
        ({"source": "webdataset"}, "url: none is not allowed; source: webdataset needs a url or a folder"),
        ({"caption": "a {kind}"}, "may contain {name} and no other braces"),
        ({"test": 0}, "greater than or equal to 1"),
    ],
)
def test_contradicting_settings_are_an_error_before_any_work(new_config: NewConfig, changes: dict, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        new_config(**changes)
