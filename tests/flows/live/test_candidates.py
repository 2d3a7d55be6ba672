"""The generators that validation selects are logged models of the run, with their figures and without weights."""

from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import LoggedModel

from flows.registry import candidates as module
from flows.registry.candidates import find_candidates, log_recorded
from flows.registry.store import connect, experiment_id, tracking_uri
from tests.helpers.servers import eventually
from tests.helpers.watched.runs import Notes, followed, history, log, wait_for

HEAD = "turn,phase,loss,validation_score,validation_fd_classifier,validation_kept,ema_half_life\n"
WEIGHTS = {"dvc.path": "artifacts/generator", "dvc.md5": "1.dir"}


def row(score: float, is_kept: bool) -> dict[str, float]:
    """The numbers of a turn that was validated."""
    numbers = {"validation_score": score, "validation_fd_classifier": 2 * score, "ema_half_life": 20.0}
    return {"loss": 0.5, **numbers, "validation_kept": int(is_kept)}


def models(root: Path, run: str) -> dict[int, LoggedModel]:
    """The candidates of a run, by their turn."""
    client = MlflowClient(tracking_uri(root))
    return find_candidates(client, client.get_run(run).info.experiment_id, run)


def figures(model: LoggedModel) -> dict[str, float]:
    return {metric.key: metric.value for metric in model.metrics or ()}


def new_run(root: Path) -> tuple[MlflowClient, str]:
    with connect(root) as client:
        return client, client.create_run(experiment_id(client, "onestep")).info.run_id


def test_a_selected_generator_is_a_model_while_the_training_goes_on(root: Path) -> None:
    notes = Notes()
    with followed(root, notes) as reporter:
        rows = log(reporter)
        rows.write(1, {"loss": 0.7})
        for turn, score, is_kept in ((2, 0.9, True), (4, 0.7, True), (6, 0.8, False)):
            rows.write(turn, row(score, is_kept))
        run = wait_for(root, notes, [(2, 0.9), (4, 0.7), (6, 0.8)], "train/validation_score")
        assert eventually(lambda: set(models(root, run)) == {2, 4}, 30)
        model = models(root, run)[4]
        assert figures(model) == {"train/validation_score": 0.7, "train/validation_fd_classifier": 1.4}
        assert (model.name, model.status, model.params) == (
            "turn-000004",
            "READY",
            {"turn": "4", "ema_half_life": "20"},
        )
        assert model.tags["mlflow.model.isExternal"] == "true" and model.source_run_id == run
        assert {(metric.step, metric.run_id) for metric in model.metrics or ()} == {(4, run)}
        begun = reporter.finish()
        assert begun is not None
    assert history(root, run, "train/validation_score") == [(2, 0.9), (4, 0.7), (6, 0.8)]  # no point twice
    assert not list(Path(MlflowClient(tracking_uri(root)).get_run(run).info.artifact_uri).rglob("*.safetensors"))


def test_of_many_selected_generators_the_last_ones_stay(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 3)
    notes = Notes()
    with followed(root, notes) as reporter:
        rows = log(reporter)
        for turn in range(1, 6):
            rows.write(turn, row(1 / turn, True))
            wait_for(root, notes, [(t, 1 / t) for t in range(1, turn + 1)], "train/validation_score")
        reporter.finish()
    assert set(models(root, notes.runs[0])) == {3, 4, 5}


def test_the_record_corrects_what_a_training_left_when_it_went_back(root: Path, tmp_path: Path) -> None:
    """Turn 2 was made anew with another score, turn 3 is no candidate any more, and turn 4 was never sent."""
    notes = Notes()
    with followed(root, notes) as reporter:
        rows = log(reporter)
        for turn, score in ((1, 0.9), (2, 0.8), (3, 0.7)):
            rows.write(turn, row(score, True))
        run = wait_for(root, notes, [(1, 0.9), (2, 0.8), (3, 0.7)], "train/validation_score")
        reporter.finish()
        before = models(root, run)
        lines = (
            "1,main,0.5,0.9,1.8,1,20\n",
            "2,main,0.5,0.85,1.7,1,20\n",
            "3,main,0.5,,,,\n",
            "4,main,0.5,0.6,1.2,1,20\n",
        )
        (tmp_path / "losses.csv").write_text(HEAD + "".join(lines))
        client = MlflowClient(tracking_uri(root))
        for _ in range(2):  # a second attempt changes nothing
            log_recorded(client, run, "train/", tmp_path / "losses.csv", WEIGHTS)
            after = models(root, run)
            assert set(after) == {1, 2, 4} and after[1].model_id == before[1].model_id
            assert (
                figures(after[2])["train/validation_score"] == 0.85
                and figures(after[4])["train/validation_score"] == 0.6
            )
            tagged = {turn for turn, model in after.items() if model.tags.get("exported") == "true"}
            assert tagged == {4} and after[4].tags.items() >= WEIGHTS.items()
            outputs = client.get_run(run).outputs
            assert outputs is not None
            assert sorted(o.model_id for o in outputs.model_outputs) == sorted(m.model_id for m in after.values())


def test_a_result_from_the_cache_has_its_candidates(root: Path, tmp_path: Path) -> None:
    client, run = new_run(root)
    (tmp_path / "losses.csv").write_text(HEAD + "1,main,0.5,,,,\n2,main,0.5,0.8,1.6,1,20\n4,main,0.5,0.9,1.8,0,20\n")
    log_recorded(client, run, "train/", tmp_path / "losses.csv", WEIGHTS)
    assert set(models(root, run)) == {2} and models(root, run)[2].tags["exported"] == "true"


def test_a_record_of_an_earlier_version_has_no_candidates(root: Path, tmp_path: Path) -> None:
    client, run = new_run(root)
    (tmp_path / "losses.csv").write_text("turn,phase,loss,validation_score\n1,main,0.5,0.8\n")
    log_recorded(client, run, "train/", tmp_path / "losses.csv", WEIGHTS)
    assert models(root, run) == {}
