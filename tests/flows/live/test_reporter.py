"""A run is in MLflow while its stages go on, and loses no row to a kill or to a server that is away."""

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest
from mlflow import MlflowClient
from PIL import Image

from dmd import progress
from dmd.errors import UserError
from flows.live import reporter as module
from flows.live.curves import draw_curves
from flows.live.feed import Row
from flows.live.reporter import Job, Reporter, follow
from flows.live.sending import begin_run, deliver
from flows.live.spool import Spool, find_abandoned, list_unsettled, open_spool
from flows.registry.store import connect, tracking_uri
from flows.registry.tracking import end_partial, is_missing, log_curves
from tests.helpers.params import set_params
from tests.helpers.servers import eventually
from tests.helpers.toy_graph import commit, new_toy
from tests.helpers.watched.runs import Notes, followed, history, log, status, wait_for


def test_a_run_exists_from_the_start_and_its_curve_grows(root: Path) -> None:
    notes = Notes()
    with followed(root, notes, "digits-s1") as reporter:
        run = wait_for(root, notes, [])
        found = MlflowClient(tracking_uri(root)).get_run(run)
        assert (found.info.status, found.info.run_name) == ("RUNNING", "digits-s1")
        assert found.data.params["train.batch_size"] == "64" and found.data.tags["prefect.flow_run_id"] == "a-flow-run"
        assert found.data.tags["mlflow.note.content"].startswith("**Changed:** `train.seed`")
        rows = log(reporter)
        rows.write(1, {"loss": 0.5})
        wait_for(root, notes, [(1, 0.5)])
        rows.write(2, {"loss": 0.25, "norm": 2})
        wait_for(root, notes, [(1, 0.5), (2, 0.25)])
        assert history(root, run, "train/norm") == [(2, 2.0)]
        begun = reporter.finish()
        assert begun is not None and begun.run_id == run
        assert begun.held["train/"]().to_dict("index")[2] == {"loss": 0.25, "norm": 2.0}
    assert not list_unsettled(root) and notes.ends[-1] and not notes.lines


def test_pictures_and_trainings_inside_a_stage_have_names_of_their_own(root: Path, tmp_path: Path) -> None:
    notes = Notes()
    Image.new("L", (4, 4)).save(tmp_path / "turn_000003.png")
    with followed(root, notes) as reporter:
        log(reporter, "vae").write(10, {"loss": 0.5})
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(progress.LIVE, str(reporter.folder / "train"))
            progress.show_picture(tmp_path / "turn_000003.png")
        begun = reporter.finish()
        assert begun is not None and history(root, begun.run_id, "train/vae.loss") == [(10, 0.5)]
        client = MlflowClient(tracking_uri(root))
        assert [f.path for f in client.list_artifacts(begun.run_id, "pictures/training")] == [
            "pictures/training/turn_000003.png"
        ]


def test_a_store_that_is_away_loses_no_row_and_stops_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes, is_away = Notes(), threading.Event()

    @contextlib.contextmanager
    def unreachable(place: Path) -> Iterator[MlflowClient]:
        if is_away.is_set():
            raise UserError("the MLflow server can't be reached")
        with connect(place) as client:
            yield client

    monkeypatch.setattr(module, "connect", unreachable)
    with followed(root, notes) as reporter:
        rows = log(reporter)
        rows.write(1, {"loss": 0.5})
        wait_for(root, notes, [(1, 0.5)])
        is_away.set()
        rows.write(2, {"loss": 0.4})
        assert eventually(lambda: notes.lines, 10)
        rows.write(3, {"loss": 0.3})
        is_away.clear()
        wait_for(root, notes, [(1, 0.5), (2, 0.4), (3, 0.3)])
        reporter.finish()
    first, last = notes.lines
    assert "the MLflow server can't be reached" in first and "runs/live" in first and "again" in last


def test_a_failed_flow_ends_its_run_and_the_next_attempt_continues_it(root: Path) -> None:
    notes = Notes()
    with pytest.raises(UserError), followed(root, notes) as reporter:
        rows = log(reporter)
        rows.write(1, {"loss": 0.5})
        rows.write(2, {"loss": 0.4})
        wait_for(root, notes, [(1, 0.5), (2, 0.4)])
        raise UserError("stage train: out of memory")
    assert status(root, notes.runs[0]) == "FAILED" and not list_unsettled(root)
    with followed(root, notes) as reporter:
        rows = log(reporter)
        rows.write(2, {"loss": 0.4})  # from its checkpoint, the training repeats a turn
        rows.write(3, {"loss": 0.3})
        assert wait_for(root, notes, [(1, 0.5), (2, 0.4), (3, 0.3)]) == notes.runs[0]
        assert status(root, notes.runs[0]) == "RUNNING"
        begun = reporter.finish()
        assert begun is not None and begun.held["train/"]()["loss"].tolist() == [0.5, 0.4, 0.3]


def test_a_full_disk_does_not_hide_why_a_flow_has_failed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(_spool: Spool) -> None:
        raise OSError(28, "No space left on device")

    notes = Notes()
    with pytest.raises(UserError, match="stage train: no space"), followed(root, notes) as reporter:
        assert eventually(lambda: notes.runs, 60)
        monkeypatch.setattr(Spool, "save", fill)
        raise UserError("stage train: no space")
    assert reporter.has_failed


def test_a_thread_that_outlives_a_failed_flow_logs_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow may need longer for its first answer than a flow that fails at once."""
    notes, is_asked, may_answer = Notes(), threading.Event(), threading.Event()

    def slow(_place: Path) -> contextlib.AbstractContextManager[MlflowClient]:
        is_asked.set()
        assert may_answer.wait(60)
        raise UserError("the folder of the run is gone")

    monkeypatch.setattr(module, "connect", slow)
    monkeypatch.setattr(module, "SHORT_PATIENCE", 0.01)
    with pytest.raises(UserError), followed(root, notes) as reporter:
        assert is_asked.wait(60)
        raise UserError("stage data: no images")
    may_answer.set()
    reporter.thread.join(60)
    assert not reporter.thread.is_alive() and not notes.lines


def test_other_parameters_make_another_run_which_settles_that_of_a_killed_flow(root: Path) -> None:
    notes = Notes()
    with open_spool(root, "workspace") as spool:  # a flow that is gone before it sends its second row
        with connect(root) as client:
            begin_run(client, spool, root, None, None)
            rows = log(Reporter(spool, Job(root), notes, notes.lines.append))
            rows.write(1, {"loss": 0.5})
            assert not deliver(client, spool)
        rows.write(2, {"loss": 0.4})
        killed = spool.state.run_id
    assert status(root, killed) == "RUNNING" and history(root, killed) == [(1, 0.5)]
    set_params(root / "params.yaml", {"train.seed": 7})
    with followed(root, notes) as reporter:
        assert eventually(lambda: status(root, killed) == "KILLED", 30)
        assert history(root, killed) == [(1, 0.5), (2, 0.4)]
        reporter.finish()
    assert notes.runs[0] != killed and not list_unsettled(root)


def test_a_flow_that_ends_at_a_stage_has_a_run_with_its_curves(root: Path) -> None:
    (root / "reports").mkdir(exist_ok=True)
    (root / "reports/teacher_losses.csv").write_text("step,loss\n10,0.5\n20,0.25\n")
    stages, notes = ("data", "teacher"), Notes()
    with follow(Job(root, target="teacher"), notes, notes.lines.append) as reporter:
        log(reporter, "teacher", "teacher").write(10, {"loss": 0.5})
        begun = reporter.finish()
        assert begun is not None and end_partial(root, begun, stages) == begun.run_id
    assert status(root, begun.run_id) == "FINISHED" and not list_unsettled(root)
    assert history(root, begun.run_id, "teacher/loss") == [(10, 0.5), (20, 0.25)]
    with follow(Job(root, target="teacher"), notes, notes.lines.append) as reporter:  # now nothing is trained
        begun = reporter.finish()
        assert begun is not None and end_partial(root, begun, stages) is None
    assert is_missing(MlflowClient(tracking_uri(root)), begun.run_id) and not notes.lines


def test_the_run_of_a_living_flow_is_not_settled(root: Path) -> None:
    with followed(root, Notes()):
        assert len(list_unsettled(root)) == 1 and not list(find_abandoned(root))


def test_the_curves_of_the_record_add_what_a_run_lacks_and_nothing_twice(root: Path, tmp_path: Path) -> None:
    notes = Notes()
    (tmp_path / "losses.csv").write_text(
        "turn,phase,loss,score\n1,main,0.5,\n2,main,0.4,7.0\n3,main,0.1,\n4,main,0.2,\n"
    )
    with followed(root, notes) as reporter:
        rows = log(reporter)
        rows.write(2, {"loss": 0.4, "score": 7.0})
        rows.write(3, {"loss": 0.3})  # a turn before the training went back, and made it again
        begun = reporter.finish()
        assert begun is not None
        client = MlflowClient(tracking_uri(root))
        log_curves(client, begun.run_id, tmp_path / "losses.csv", held=begun.held["train/"]())
    points = history(root, begun.run_id)
    assert sorted(points) == [(1, 0.5), (2, 0.4), (3, 0.1), (3, 0.3), (4, 0.2)] and points.index((3, 0.3)) == 1
    assert history(root, begun.run_id, "train/score") == [(2, 7.0)]


def test_a_long_curve_is_drawn_from_few_rows(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(progress.LIVE, str(tmp_path / "train"))
        rows = progress.LiveLog("train")
        for turn in range(1, 5001):
            numbers = {"validation_score": float(turn)} if turn % 50 == 0 else {}
            rows.write(turn, {"critic_total": 1 / turn, **numbers})
    spool = Spool(tmp_path, "store")
    (feed,) = spool.find_feeds()
    while part := feed.read():
        feed.accept(*part)
    drawn = feed.thin_table()
    steps = drawn["critic_total"].dropna().index
    assert feed.count == 5000 and len(steps) <= 1000 and steps[0] == 1 and steps[-1] > 4990
    assert list(drawn["validation_score"].dropna()) == [float(turn) for turn in range(50, 5001, 50)]
    assert isinstance(feed.table(), pd.DataFrame) and len(feed.table()) == 5000
    feed.accept([Row(0, 4000, {"critic_total": 0.5})], feed.position)  # the training has gone back
    drawn = feed.thin_table()
    assert drawn.index.max() == 4000 and drawn["validation_score"].last_valid_index() == 3950
    png = draw_curves([feed])
    assert png is not None and png.startswith(b"\x89PNG") and len(png) < 60_000


def test_a_changed_file_may_be_in_any_encoding(root: Path, tmp_path: Path) -> None:
    place = new_toy(tmp_path)
    (place / "params.yaml").write_bytes((root / "params.yaml").read_bytes())
    (place / "notes.txt").write_bytes("café\n".encode("latin-1"))
    commit(place)
    (place / "notes.txt").write_bytes("cafés\n".encode("latin-1"))
    with open_spool(place, "workspace") as spool:
        first = spool.folder
    (place / "notes.txt").write_bytes("thé\n".encode("latin-1"))
    with open_spool(place, "workspace") as spool:
        assert spool.folder != first


def test_two_threads_write_the_state_at_once(tmp_path: Path) -> None:
    spool = Spool(tmp_path, "store")
    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(spool.save) for _ in range(200)]:
            done.result()
    assert Spool(tmp_path, "store").state == spool.state
