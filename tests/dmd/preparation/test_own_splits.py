"""The data set's own splits: which is which, which are left out, and how many images each needs."""

import io
import tarfile
from pathlib import Path

import pytest

from dmd.config import Params, fewest_images
from dmd.errors import DataError
from dmd.preparation.prepare import prepare
from dmd.preparation.sources.base import choose_splits
from tests.helpers.params import with_values
from tests.helpers.sources import NewConfig, png_bytes, stored, values, write_pictures

AUTO = {"validation": "auto", "test": "auto"}


@pytest.mark.parametrize(
    ("names", "chosen", "expected"),
    [
        (["train"], {}, {"train": "train"}),
        (["train", "valid", "testing"], {}, {"train": "train", "validation": "valid", "test": "testing"}),
        (["train", "validation", "test"], {"test": "validation"}, {"train": "train", "test": "validation"}),
        (["train", "validation", "test"], {"test": "none"}, {"train": "train", "validation": "validation"}),
        (["train", "val", "test"], {"test": "val", "validation": "test"},
         {"train": "train", "validation": "test", "test": "val"}),
        (["train", "test_a", "test_b", "extra"], {"test": "test_b"}, {"train": "train", "test": "test_b"}),
        (["train", "extra"], {"test": "extra"}, {"train": "train", "test": "extra"}),
        (["test"], {}, {"test": "test"}),
    ],
)  # fmt: skip
def test_splits_are_chosen_by_their_names(names: list[str], chosen: dict[str, str], expected: dict[str, str]) -> None:
    assert choose_splits(names, {**AUTO, **chosen}) == expected
    assert choose_splits(expected.values(), {**AUTO, **chosen}) == expected  # what was chosen stays


@pytest.mark.parametrize(
    ("names", "chosen", "words"),
    [
        (["train", "test"], {"test": "tset"}, "data.test_split: tset is no split that .* holds out; it has test"),
        (["train", "test"], {"validation": "train"}, "data.validation_split: train is no split that"),
        (["train"], {"test": "x"}, "it has none"),
        (["train", "test_a", "test_b"], {}, "data.test_split: test_a and test_b can serve as test; name one of them"),
        (["train", "test"], {"test": "test", "validation": "test"}, "both are test; name two splits, or none"),
    ],
)  # fmt: skip
def test_a_choice_that_fits_no_split_is_an_error(names: list[str], chosen: dict[str, str], words: str) -> None:
    with pytest.raises(DataError, match=words):
        choose_splits(names, {**AUTO, **chosen})


def write_shards(folder: Path) -> None:
    """Write shards of three splits; the labels of the test split are all -1, as in ImageNet-1k on the hub."""
    folder.mkdir()
    for split, count, first, label in (("train", 20, 0, b"0"), ("val", 6, 50, b"0"), ("test", 9, 90, b"-1")):
        with tarfile.open(folder / f"{split}-000.tar", "w") as tar:
            for i in range(first, first + count):
                for ending, content in (("png", png_bytes(i)), ("cls", label)):
                    member = tarfile.TarInfo(f"{i:04d}.{ending}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))


def test_a_test_split_without_labels_is_named_and_another_can_serve(new_config: NewConfig, tmp_path: Path) -> None:
    write_shards(tmp_path / "in")
    shared = {"source": "webdataset", "folder": tmp_path / "in", "test": "all"}
    with pytest.raises(DataError, match=r"the split test .* no usable record: .*'-1', not a label; .* data\.test_s"):
        prepare(new_config(**shared), tmp_path / "out")
    result = prepare(new_config(**shared, test_split="validation"), tmp_path / "out")
    assert result.counts == {"train": 18, "validation": 2, "test": 6} and not result.skipped
    assert result.passed_by == {"in split test": 9}
    assert sorted(values(stored(tmp_path / "out")["test"])) == list(range(50, 56))
    shared |= {"test": 3, "test_split": "none", "validation_split": "validation"}
    result = prepare(new_config(**shared), tmp_path / "other")
    assert result.counts == {"train": 17, "validation": 2, "test": 3}


def test_a_split_of_the_hub_without_labels_is_named_and_another_can_serve(
    new_config: NewConfig, tmp_path: Path
) -> None:
    datasets = pytest.importorskip("datasets")
    from tests.helpers.sources import picture

    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    splits = {}
    for name, count in (("train", 20), ("validation", 8), ("test", 9), ("x", 3)):
        labels = [-1 if name == "test" else i % 2 for i in range(count)]
        rows = {"image": [picture(i) for i in range(count)], "label": labels}
        splits[name] = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "in")
    shared = {"source": "huggingface", "folder": tmp_path / "in", "test": "all"}
    with pytest.raises(
        DataError, match=r"no image of the split test has a label; name another split in data\.test_split"
    ):
        prepare(new_config(**shared), tmp_path / "out")
    result = prepare(new_config(**shared, test_split="validation"), tmp_path / "out")
    assert result.counts == {"train": 18, "validation": 2, "test": 8}
    assert result.passed_by == {"in split test": 9, "in split x": 3}


@pytest.mark.parametrize(
    ("train", "test", "words"),
    [
        (20, 3, "the split test has 3 images, but the measures need 4"),
        (6, 9, "split train has 3 images, but .* need 4"),
    ],
)
def test_too_few_images_for_the_measures_are_an_error(
    new_config: NewConfig, params: Params, tmp_path: Path, train: int, test: int, words: str
) -> None:
    """The numbers are those of the data set's own splits, so that the parameters alone do not show them."""
    write_pictures(tmp_path / "in/train/cat", train)
    write_pictures(tmp_path / "in/test/cat", test, first=50)
    chosen = new_config(source="folder", folder=tmp_path / "in", test="all", validation=3)
    params = with_values(params, train={"validation": params.train.validation.model_copy(update={"draws": 1})})
    with pytest.raises(DataError, match=words):
        prepare(chosen, tmp_path / "out", fewest_images(params))
    assert not (tmp_path / "out").exists()
    prepare(chosen, tmp_path / "out", fewest_images(with_values(params, baseline={"neighbours": 1})))


def test_unusable_images_count_before_the_measures(new_config: NewConfig, params: Params, tmp_path: Path) -> None:
    write_pictures(tmp_path / "in/train/cat", 20)
    write_pictures(tmp_path / "in/test/cat", 4, first=50)
    (tmp_path / "in/test/cat/050.png").write_bytes(b"")
    chosen = new_config(source="folder", folder=tmp_path / "in", test="all", max_bad=0.5)
    params = with_values(params, train={"validation": params.train.validation.model_copy(update={"draws": 1})})
    words = r"the split test has 3 images beside 1 unusable ones \(test/cat/050\.png: .*\), but the measures need 4"
    with pytest.raises(DataError, match=words):
        prepare(chosen, tmp_path / "out", fewest_images(params))
