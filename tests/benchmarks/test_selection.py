"""The comparison of validation measures: its data sets, its parameters and its record."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.selection import __main__ as program
from benchmarks.selection import mnist_5k as images
from benchmarks.selection.settings import RUNS, DataSet, digits, fashion_mnist, mnist_5k
from benchmarks.selection.training import write_params
from dmd.config import load_params
from dmd.errors import DataError
from tests.helpers.projects import ROOT


@pytest.fixture
def few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file like that of MNIST-5k, with six images of two digits."""
    monkeypatch.setattr(images, "IMAGES", 6)
    rng = np.random.default_rng(0)
    lines = np.concatenate([rng.integers(256, size=(6, 784)), np.arange(6)[:, None] % 2], axis=1)
    with gzip.open(tmp_path / "few.csv.gz", "wt") as out:
        np.savetxt(out, lines, fmt="%d", delimiter=",")
    return tmp_path / "few.csv.gz"


def test_the_images_of_a_file_become_a_folder_of_classes(few: Path, tmp_path: Path) -> None:
    images.write_images(few, tmp_path / "images")
    files = sorted(file.relative_to(tmp_path / "images").as_posix() for file in tmp_path.rglob("*.png"))
    assert files == ["0/0000.png", "0/0002.png", "0/0004.png", "1/0001.png", "1/0003.png", "1/0005.png"]
    lines = np.loadtxt(few, delimiter=",", dtype=np.uint8)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "images/1/0003.png")).ravel(), lines[3, :-1])
    few.unlink()
    images.write_images(few, tmp_path / "images")  # they are there


@pytest.mark.parametrize(("text", "words"), [("1,2,3\n", "is it mnist_5k.csv.gz"), ("a,b\n", "cannot be read")])
def test_another_file_is_one_line(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "other.csv").write_text(text)
    with pytest.raises(DataError, match=words) as e:
        images.write_images(tmp_path / "other.csv", tmp_path / "images")
    assert "\n" not in str(e.value)


def test_files_that_are_missing_are_named_before_any_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(program, "find_file", lambda: None)
    monkeypatch.setattr(program, "compare_data_set", pytest.fail)
    for name, remedy in (("mnist_5k", "--mnist-5k FILE"), ("fashion_mnist", "--fashion-mnist FOLDER")):
        assert program.main(["digits", name, "--work", str(tmp_path)]) == 1
        err = capsys.readouterr().err
        assert err.startswith(f"error: {name}: ") and remedy in err


@pytest.mark.parametrize("data_set", [digits(), fashion_mnist(ROOT, ROOT / "zoo/fashion_mnist"), mnist_5k(ROOT)])
def test_every_run_has_valid_parameters(data_set: DataSet, tmp_path: Path) -> None:
    write_params(tmp_path / "params.yaml", data_set.prepare)
    load_params(tmp_path / "params.yaml")
    for changes in RUNS.values():
        write_params(tmp_path / "params.yaml", {**data_set.prepare, **data_set.train, **changes})
        cfg = load_params(tmp_path / "params.yaml").train
        assert cfg.generator_turns >= 4 * cfg.validate_every  # generators to select from


def test_a_result_joins_those_of_other_data_sets(tmp_path: Path) -> None:
    program.write_record(tmp_path / "record.json", "digits", {"runs": 6, "figures": []})
    program.write_record(tmp_path / "record.json", "mnist_5k", {"runs": 7, "figures": []})
    program.write_record(tmp_path / "record.json", "digits", {"runs": 8, "figures": []})
    record = json.loads((tmp_path / "record.json").read_text())
    assert {name: result["runs"] for name, result in record.items()} == {"digits": 8, "mnist_5k": 7}
