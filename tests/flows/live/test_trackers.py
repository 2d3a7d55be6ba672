"""TensorBoard and Weights & Biases show a run that is followed; neither can stop it, and no row is sent twice."""

import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dmd import progress
from dmd.errors import UserError
from evaluation.metrics.files import write_metrics
from flows.live import reporter as reporting
from flows.live import trackers
from flows.live.feed import Row
from flows.live.places import About
from flows.live.reporter import Reporter
from tests.helpers.params import set_params
from tests.helpers.reports import generator_measures, run_metrics
from tests.helpers.servers import eventually
from tests.helpers.watched.runs import Notes, followed, log

RESTORED = "step,loss\n10,0.75\n20,0.5\n"  # of a teacher that comes from the cache


class Fake:
    """A place that notes what it gets, and refuses the rows from a step on while it is away."""

    is_away, takes_until = False, 1

    def __init__(self, about: About) -> None:
        self.about = about
        self.rows: list[tuple[str, int, dict[str, float]]] = []
        self.pictures: list[tuple[str, str, int]] = []
        self.figures: dict[str, float] = {}
        self.ends: list[bool] = []

    def log(self, group: str, row: Row) -> None:
        if Fake.is_away and row.step > Fake.takes_until:
            raise ConnectionError("no route to host")
        self.rows.append((group, row.step, row.numbers))

    def show(self, name: str, file: Path, step: int) -> None:
        self.pictures.append((name, file.name, step))

    def conclude(self, figures: Mapping[str, float]) -> None:
        self.figures |= figures

    def close(self, is_failed: bool) -> None:
        self.ends.append(is_failed)


@pytest.fixture
def places(root: Path, monkeypatch: pytest.MonkeyPatch) -> list[Fake]:
    """The fake places that were opened; the parameters name one tracker."""
    opened: list[Fake] = []

    def open_place(name: str, runs: Path, about: About) -> Fake:
        assert name == "wandb" and runs == root / "runs"
        opened.append(Fake(about))
        return opened[-1]

    monkeypatch.setattr(trackers, "open_place", open_place)
    monkeypatch.setattr(Fake, "is_away", False)
    use(root, monkeypatch, "wandb")
    return opened


def use(root: Path, monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Name trackers in the parameters, and give the project a result."""
    monkeypatch.setattr(trackers, "INTERVAL", 0.05)
    set_params(root / "params.yaml", {"register.trackers": list(names)})
    (root / "reports").mkdir(exist_ok=True)
    metrics = run_metrics(generator_measures({"clip": 1.25}), {"clip": 1.0})
    write_metrics(metrics, root / "reports/metrics.json", root / "reports/details.json")
    (root / "reports/teacher_losses.csv").write_text(RESTORED)
    (root / "reports/losses.csv").unlink(missing_ok=True)


def show(reporter: Reporter, folder: Path) -> None:
    """Hand a picture over as stage `train` does."""
    Image.new("L", (4, 4), 255).save(folder / "turn_000003.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(progress.LIVE, str(reporter.folder / "train"))
        progress.show_picture(folder / "turn_000003.png")


def test_a_tracker_gets_rows_pictures_and_the_result(root: Path, places: list[Fake], tmp_path: Path) -> None:
    notes = Notes()
    with followed(root, notes, "digits-s1") as reporter:
        rows = log(reporter)
        rows.write(1, {"loss": 0.5})
        assert eventually(lambda: places and places[0].rows, 30), notes.lines
        rows.write(2, {"loss": 0.25})
        show(reporter, tmp_path)
        reporter.finish()
    (place,) = places
    assert place.about.project == "onestep" and place.about.name == "digits-s1"
    assert place.about.params["train.batch_size"] == "64"
    assert place.rows == [
        *(("train/", turn, {"loss": loss}) for turn, loss in ((1, 0.5), (2, 0.25))),
        *(("teacher/", step, {"loss": loss}) for step, loss in ((10, 0.75), (20, 0.5))),
    ]
    assert place.pictures == [("train/picture", "turn_000003.png", 3)]
    assert place.figures["student.fd.clip"] == 1.25 and place.ends == [False] and not notes.lines


def test_a_place_that_is_away_gets_the_rows_later_and_once(root: Path, places: list[Fake]) -> None:
    notes = Notes()
    Fake.is_away = True
    with followed(root, notes) as reporter:
        rows = log(reporter)
        for turn in (1, 2, 3):
            rows.write(turn, {"loss": 0.5 / turn})
        assert eventually(lambda: notes.lines, 30)
        Fake.is_away = False
        assert eventually(lambda: len(places[0].rows) >= 3, 30)
        reporter.finish()
    first, last = notes.lines
    assert first.startswith("wandb does not take the rows of this run; runs/live") and "no route to host" in first
    assert last == "wandb takes the rows of this run again"
    assert places[0].rows[:3] == [("train/", turn, {"loss": 0.5 / turn}) for turn in (1, 2, 3)]
    assert [row for row in places[0].rows if row[0] == "train/"] == places[0].rows[:3] and places[0].ends == [False]


def test_a_place_that_hangs_delays_the_end_by_the_patience_alone(
    root: Path, places: list[Fake], monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = Notes()
    monkeypatch.setattr(reporting, "PATIENCE", 1.0)
    monkeypatch.setattr(Fake, "log", lambda *_: time.sleep(60))
    with followed(root, notes) as reporter:
        log(reporter).write(1, {"loss": 0.5})
        assert eventually(lambda: places, 30)
        reporter.finish()
        began = time.monotonic()
    assert time.monotonic() - began < 30 and notes.lines == ["wandb lacks the end of this run; MLflow has all of it"]


def test_the_next_attempt_continues_the_run_of_a_failed_one(root: Path, places: list[Fake]) -> None:
    with pytest.raises(UserError), followed(root, Notes()) as reporter:
        log(reporter).write(1, {"loss": 0.5})
        assert eventually(lambda: places and places[0].rows, 30)
        raise UserError("stage train: out of memory")
    with followed(root, Notes()) as reporter:
        log(reporter).write(2, {"loss": 0.25})
        reporter.finish()
    first, second = places
    assert first.ends == [True] and second.ends == [False]
    assert first.about.run_id == second.about.run_id and first.about.params and not second.about.params
    assert [(group, step) for group, step, _ in second.rows if group == "train/"] == [("train/", 2)]


def test_tensorboard_shows_curves_pictures_and_figures(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    use(root, monkeypatch, "tensorboard")
    notes = Notes()
    with followed(root, notes, "digits-s1") as reporter:
        rows = log(reporter)
        rows.write(5, {"loss": 0.5})
        rows.write(6, {"loss": 0.25})
        show(reporter, tmp_path)
        reporter.finish()
    assert not notes.lines
    (folder,) = (root / "runs/tensorboard").iterdir()
    assert folder.name.startswith("digits-s1-")
    events = EventAccumulator(str(folder))
    events.Reload()
    points = events.Scalars("train/loss")
    assert [(p.step, p.value) for p in points] == [(5, 0.5), (6, 0.25)] and abs(points[0].wall_time - time.time()) < 600
    assert [(p.step, p.value) for p in events.Scalars("teacher/loss")] == [(10, 0.75), (20, 0.5)]
    assert events.Scalars("student.fd.clip")[0].value == 1.25
    (picture,) = events.Images("train/picture")
    assert (picture.step, picture.width, picture.height) == (3, 4, 4)
    assert "train.batch_size" in next(folder.rglob("hparams.yml")).read_text()


def test_weights_and_biases_takes_two_runs_at_once_without_a_network(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    use(root, monkeypatch, "wandb")
    notes = Notes()
    with followed(root, notes, "a-s1") as first, followed(root, notes, "b-s2") as second:
        for reporter, loss in ((first, 0.5), (second, 0.25)):
            log(reporter).write(7, {"loss": loss})
            show(reporter, tmp_path)
        first.finish()
        second.finish()
    assert not notes.lines
    found = {}
    for file in (root / "runs/wandb").glob("offline-run-*/*.wandb"):
        records = list(read(file))
        (name,) = (record.run.display_name for record in records if record.run.display_name)
        items = [{item.nested_key[0] if item.nested_key else item.key: item.value_json for item in r.history.item}
                 for r in records if r.history.item]  # fmt: skip
        found[name] = [(row["train/loss"], row["train/step"]) for row in items if "train/loss" in row]
    assert found == {"a-s1": [("0.5", "7")], "b-s2": [("0.25", "7")]}
    assert len(list((root / "runs/wandb").rglob("media/images/train/picture*.png"))) == 2


def read(file: Path) -> Any:
    """The records of an offline run of Weights & Biases, in the format of LevelDB's log."""
    from wandb.proto import wandb_internal_pb2

    data, position, content = file.read_bytes(), 7, b""  # a header of 7 bytes
    while position + 7 <= len(data):
        if (left := 2**15 - position % 2**15) < 7:  # no record begins in the end of a block
            position += left
            continue
        length, kind = struct.unpack_from("<HB", data, position + 4)
        position += 7
        content += data[position : position + length]
        position += length
        if kind in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(content)
            content = b""
            yield record
