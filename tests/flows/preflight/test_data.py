"""Data in folders are listed before a run, so that a mistake in them is found in seconds."""

import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from flows.preflight import data
from flows.preflight.data import check_data
from flows.preflight.run import Run
from tests.helpers.params import with_values


def with_folder(run: Run, folder: str, source: str = "folder") -> Run:
    """The run with the data of a folder, which is made with pictures of two classes."""
    for i in range(48):
        file = run.root / folder / ("cat", "dog")[i % 2] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), i).save(file)
    splits = {"validation": 16, "test": 8}
    return replace(run, params=[with_values(run.params[0], data={"source": source, "folder": folder, **splits})])


def test_data_that_can_be_listed_are_accepted(run: Run, tmp_path: Path) -> None:
    """A folder may be relative to the project."""
    assert not list(check_data(with_folder(run, "pictures")))
    assert not list(check_data(with_folder(run, str(tmp_path / "elsewhere"))))
    assert not list(check_data(run))


def test_a_mistake_is_one_line_for_each_kind_of_data(run: Run) -> None:
    loose = with_folder(run, "pictures")
    (run.root / "pictures/none.png").write_bytes((run.root / "pictures/cat/0.png").read_bytes())
    (line,) = check_data(replace(loose, params=[*loose.params, *loose.params]))
    assert "pictures has images both in class folders and beside them, such as none.png; use one of the two" in line
    few = with_folder(run, "few")
    few = replace(few, params=[with_values(few.params[0], data={"validation": 8})])
    (line,) = check_data(few)
    assert line.startswith("the split validation has 8 images, but the measures need 16 (data.validation, ")
    (line,) = check_data(with_folder(run, "without shards", "webdataset"))
    assert line.endswith("without shards has no .tar file")


def test_only_data_that_the_run_prepares_are_listed(run: Run) -> None:
    shards = with_folder(run, "pictures", "webdataset")
    assert list(check_data(shards))
    assert not list(check_data(replace(shards, stages=frozenset({"train", "evaluate"}))))


def test_a_listing_that_takes_long_is_left_to_the_stage(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    done = threading.Event()
    monkeypatch.setattr("dmd.preparation.prepare.list_parts", lambda *_: done.wait(20))
    monkeypatch.setattr(data, "PATIENCE", 0.1)
    began = time.monotonic()
    assert not list(check_data(with_folder(run, "pictures")))
    assert time.monotonic() - began < 10
    done.set()
