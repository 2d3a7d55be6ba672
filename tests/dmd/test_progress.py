"""A training hands its numbers and pictures to the flow that follows it, and nothing there can stop it."""

import json
import math
from pathlib import Path

import pytest

from dmd.progress import LIVE, LiveLog, Progress, show_picture


def rows(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that a flow follows."""
    monkeypatch.setenv(LIVE, str(tmp_path / "live"))
    return tmp_path / "live"


def test_a_row_holds_the_values_that_are_numbers(folder: Path) -> None:
    log = LiveLog("train")
    log.write(1, {"loss": 0.1, "phase": "main", "norm": math.nan, "step": 3})
    log.write(2, {"loss": 1 / 3})
    first, second = rows(folder / "train.jsonl")
    assert (first["step"], first["numbers"]) == (1, {"loss": 0.1, "step": 3})
    assert second["numbers"]["loss"] == 1 / 3 and second["time"] >= first["time"] > 1.6e12


def test_without_the_variable_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(LIVE, raising=False)
    monkeypatch.chdir(tmp_path)
    LiveLog("train").write(1, {"loss": 0.1})
    show_picture(tmp_path / "none.png")
    assert list(tmp_path.iterdir()) == []


def test_rows_follow_a_line_that_a_kill_left_unfinished(folder: Path) -> None:
    folder.mkdir()
    (folder / "train.jsonl").write_text('{"time": 1, "st')
    LiveLog("train").write(5, {"loss": 0.1})
    assert json.loads((folder / "train.jsonl").read_text().splitlines()[1])["step"] == 5


def test_a_folder_that_cannot_be_written_stops_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "a.png").write_bytes(b"png")
    monkeypatch.setenv(LIVE, str(tmp_path / "file"))
    log = LiveLog("train")
    for turn in range(3):
        log.write(turn, {"loss": 0.1})
    show_picture(tmp_path / "a.png")
    assert capsys.readouterr().err.count("the curve of train ends in MLflow") == 1


def test_a_progress_writes_every_tenth_count_and_the_last(folder: Path) -> None:
    with Progress("teacher", 25, "steps", start=5) as progress, Progress("images", 25, "images") as silent:
        for step in range(6, 26):
            progress.update(loss=float(step))
            silent.update()
    assert [(r["step"], r["numbers"]) for r in rows(folder / "teacher.jsonl")] == [
        (10, {"loss": 10.0}),
        (20, {"loss": 20.0}),
        (25, {"loss": 25.0}),
    ]
    assert not (folder / "images.jsonl").exists()


def test_a_picture_appears_whole_under_its_name(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "turn_000050.png").write_bytes(b"png")
    show_picture(tmp_path / "turn_000050.png")
    assert [p.name for p in (folder / "pictures").iterdir()] == ["turn_000050.png"]
