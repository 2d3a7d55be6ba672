"""A result is published once, with parameters, measures, curves, pictures and lineage."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from mlflow import MlflowClient
from requests import HTTPError

from dmd.errors import UserError
from evaluation.sources import SourceError, find_generator
from flows.registry import tracking
from flows.registry.description import Change, describe_changes, find_changes
from flows.registry.result import RESULT, load_result
from flows.registry.store import check_store, connect, experiment_id, tracking_uri
from flows.registry.tracking import Begun, publish
from flows.runtime.git import git
from tests.helpers.faults.damage import DAMAGES, do_damage
from tests.helpers.published import NAME, runs


@pytest.mark.slow
def test_publishing_twice_makes_one_run(workspace: Path, client: MlflowClient, run_id: str):
    assert publish(workspace) == run_id
    assert [run.info.status for run in runs(client)] == ["FINISHED"]


def test_a_run_holds_parameters_measures_and_lineage(workspace: Path, client: MlflowClient, run_id: str):
    run = client.get_run(run_id)
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=workspace, capture_output=True, text=True, check=True)
    assert run.data.params["train.batch_size"] == "64"
    assert run.data.params["register.name"] == NAME
    assert run.data.metrics["student.fd.clip"] == 1.25
    assert run.data.metrics["teachers/ddim_50.fd.clip"] == 1.25
    assert run.data.metrics["timing/student.seconds_per_image"] == 0.001
    assert run.data.params["teachers.ddim_50.nfe"] == "50" and run.data.params["best_teacher.cnn"] == "ddim_50"
    assert run.data.tags["git.sha"] == head.stdout.strip()
    assert run.data.tags["git.dirty"] == "false"
    assert run.data.tags["prefect.flow_run_id"] == "a-flow-run"
    assert {"dvc.lock.sha256", "dvc.data.md5", "params.sha256", RESULT, "publisher.host"} <= run.data.tags.keys()
    assert run.inputs is not None
    dataset = run.inputs.dataset_inputs[0].dataset
    assert dataset.name == "digits"
    assert dataset.digest == run.data.tags["dvc.data.md5"][:8]


def test_the_headline_stands_above_the_groups_and_constants_are_parameters(client: MlflowClient, run_id: str):
    metrics, params = client.get_run(run_id).data.metrics, client.get_run(run_id).data.params
    names = {
        "student.clip_score",
        *(f"student.{m}.{k}" for m in ("fd", "precision", "recall") for k in ("clip", "cnn")),
    }
    assert {name for name in metrics if "/" not in name} == {*names, "ratio.fd.clip", "ratio.fd.cnn"}
    groups = {name.partition("/")[0] for name in metrics if "/" in name}
    assert groups == {"ratio", "real", "student", "teachers", "timing", "train"}
    assert all(name.count("/") <= 1 for name in metrics)
    assert not [name for name in metrics if name.endswith((".nfe", ".samples", ".draws", ".seed")) or "judged" in name]
    assert params["student.samples"] == "1797" and params["judged.neighbours"] == "3" and params["student.nfe"] == "1"


def test_a_run_is_of_model_training_and_says_what_came_out(workspace: Path, client: MlflowClient, run_id: str):
    run = client.get_run(run_id)
    experiment = client.get_experiment(run.info.experiment_id)
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    assert run.info.run_name == f"{NAME}-{run.data.tags[RESULT][:8]}"
    about = run.data.tags["mlflow.note.content"]
    assert about.startswith("**Changed:** nothing in params.yaml.\n")
    outcome = "with 1 network pass, the student's Fréchet distance is 1.00 (0.90 to 1.10) of that of DDIM 50 by clip; "
    assert outcome in about and about.endswith("by cnn. Lower is better.")


def test_a_description_lists_changes_with_their_former_values(workspace: Path):
    text = (workspace / "params.yaml").read_text()
    changed = find_changes(workspace, text.replace("critic_turns: 5 ", "critic_turns: 3 "))
    assert describe_changes(changed) == "`method.critic_turns` 3 (was 5)"
    added = find_changes(workspace, text.replace("critic_turns: 5 ", "unknown: 5 "))
    assert describe_changes(added) == "`method.unknown` 5 (was None), `method.critic_turns` None (was 5)"
    many = {f"train.key{i}": Change(0, i) for i in range(20)}
    assert describe_changes(many).endswith("`train.key11` 11 (was 0), and 8 more values")


def test_a_mistake_in_the_last_commit_prevents_no_description(workspace: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("flows.registry.description.git", lambda *_words: "<<<<<<< mine\ntrain: {seed: [\n")
    assert find_changes(workspace, "train: {seed: 1}") == {"train.seed": Change(None, 1)}


def test_the_kind_of_an_experiment_is_set_once_and_can_be_changed_by_a_user(workspace: Path, client: MlflowClient):
    number = client.create_experiment("old")
    assert experiment_id(client, "old") == number
    assert client.get_experiment(number).tags["mlflow.experimentKind"] == "custom_model_development"
    client.set_experiment_tag(number, "mlflow.experimentKind", "finetuning")
    experiment_id(client, "old")
    assert client.get_experiment(number).tags["mlflow.experimentKind"] == "finetuning"


def test_an_experiment_whose_files_a_server_keeps_is_refused_without_that_server(client: MlflowClient):
    """`make up` made it. A run beside the server would fail only when it publishes, after its training."""
    client.create_experiment("served", artifact_location="mlflow-artifacts:/7")
    with pytest.raises(UserError, match=r"^a server keeps the files of the MLflow experiment 'served': start it"):
        experiment_id(client, "served")


def test_a_file_that_the_server_refuses_is_one_line(workspace: Path):
    """MLflow raises an error of its HTTP library for it, such as for 413 of a proxy with a limit."""
    words = "413 Client Error: Request Entity Too Large"
    with pytest.raises(UserError, match=rf"^MLflow at sqlite:.*: {words}$"), connect(workspace):
        raise HTTPError(words)


def test_curves_are_complete(client: MlflowClient, run_id: str):
    critic = client.get_metric_history(run_id, "train/critic")
    assert [(m.step, m.value) for m in critic] == [(turn, 1 / (turn + 1)) for turn in range(1500)]
    generator = client.get_metric_history(run_id, "train/generator")
    assert [(m.step, m.value) for m in generator] == [(turn, turn) for turn in range(0, 1500, 5)]


def test_a_run_holds_pictures_and_the_report_with_lineage(workspace: Path, client: MlflowClient, run_id: str):
    folder = Path(client.download_artifacts(run_id, ""))
    assert (folder / "pictures" / "samples.png").is_file()
    assert (folder / "pictures" / "training" / "turn_000100.png").is_file()
    assert (folder / "plots" / "fd_clip.svg").is_file()
    page = (folder / "report" / "index.html").read_text()
    assert run_id in page and time.strftime("%Y-") in page and git(workspace, "rev-parse", "HEAD") in page
    assert run_id not in (workspace / "reports" / "index.html").read_text()


@pytest.mark.parametrize("keep_time", [True, False], ids=["same-time", "new-time"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_result_is_named_and_not_published(workspace: Path, damage: str, keep_time: bool):
    """Weights, a picture and the measures; DVC itself sees only the damage that changes the time stamp."""
    for name, other in (
        ("artifacts/generator/unet/diffusion_pytorch_model.safetensors", "artifacts/generator/generator.json"),
        ("reports/samples.png", "reports/losses.csv"),
        ("reports/metrics.json", "reports/timing.json"),
    ):
        files = [workspace / name, workspace / other]
        before = [(file.read_bytes(), file.stat().st_mtime_ns) for file in files]
        do_damage(damage, files, keep_time)
        with pytest.raises(UserError, match=rf"^{name} has changed since|differs from dvc.lock in everything"):
            load_result(workspace)
        for file, (content, stamp) in zip(files, before, strict=True):
            file.write_bytes(content)
            os.utime(file, ns=(stamp, stamp))
    load_result(workspace)


def test_the_store_lies_in_the_main_worktree(workspace: Path, client: MlflowClient, run_id: str, tmp_path: Path):
    store = workspace / "runs" / "mlflow"
    assert client.get_run(run_id).info.artifact_uri == (store / "artifacts" / run_id / "artifacts").as_uri()
    other = tmp_path / "other"
    subprocess.run(["git", "worktree", "add", "-q", "--detach", str(other)], cwd=workspace, check=True)
    assert tracking_uri(other) == tracking_uri(workspace) == f"sqlite:///{store / 'mlflow.db'}"


@pytest.mark.slow
def test_a_comparison_can_load_a_registered_generator(
    workspace: Path, version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """`find_generator` looks the version up in the database of the flows, and writes nothing to the folder."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(workspace)
    folder = find_generator(f"models:/{NAME}/{version}", tmp_path)
    own = workspace / "artifacts" / "generator"
    assert (folder / "generator.json").read_bytes() == (own / "generator.json").read_bytes()
    assert not (workspace / "mlflow.db").exists()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'other.db'}")
    with pytest.raises(SourceError, match="nor a registered model"):
        find_generator(f"models:/{NAME}/{version}", tmp_path / "again")


def test_the_path_of_a_relative_store_becomes_absolute_and_a_file_store_is_an_error(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///here.db")
    assert tracking_uri(workspace) == f"sqlite:///{workspace / 'here.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////there/mlflow.db")
    assert tracking_uri(workspace) == "sqlite:////there/mlflow.db"
    for uri in ("./mlruns", "file:///there/mlruns"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        with pytest.raises(UserError, match="file store"):
            tracking_uri(workspace)


def test_an_unreachable_server_is_one_line(workspace: Path, monkeypatch: pytest.MonkeyPatch):
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # not listening: refused at once
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{bound.getsockname()[1]}")
        with pytest.raises(UserError, match=r"^the MLflow server http://127.* can't be reached .*$"):
            publish(workspace)


def test_a_workspace_that_differs_from_dvc_lock_is_an_error(workspace: Path, run_id: str):
    card = workspace / "artifacts" / "generator" / "generator.json"
    before = card.read_text()
    card.chmod(0o644)
    card.write_text(before + " ")
    try:
        with pytest.raises(UserError, match=r"differs from dvc\.lock in everything; run `dvc repro`"):
            publish(workspace)
    finally:
        card.write_text(before)


def test_an_interrupted_run_is_closed_and_does_not_count(
    workspace: Path, client: MlflowClient, run_id: str, monkeypatch: pytest.MonkeyPatch
):
    def interrupt(*_args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tracking, "find_run", lambda *_args: None)
    monkeypatch.setattr(tracking, "_log_files", interrupt)
    before = {run.info.run_id for run in runs(client)}
    with pytest.raises(KeyboardInterrupt):
        publish(workspace)
    (half,) = [run for run in runs(client) if run.info.run_id not in before]
    assert half.info.status == "FAILED"
    monkeypatch.undo()
    earlier = client.create_run(half.info.experiment_id, start_time=1, tags={RESULT: half.data.tags[RESULT]})
    client.set_terminated(earlier.info.run_id, "FAILED")
    assert publish(workspace) == run_id
    for run in (half, earlier):
        client.delete_run(run.info.run_id)


def test_a_run_that_has_begun_is_completed_and_gets_no_point_twice(workspace: Path, client: MlflowClient, run_id: str):
    begun = client.create_run(client.get_run(run_id).info.experiment_id, run_name="toy").info.run_id
    client.log_metric(begun, "train/critic", 0.5, step=1)
    held = pd.DataFrame({"critic": [0.5]}, index=[1])
    assert publish(workspace, begun=Begun(begun, {"train/": lambda: held})) == begun
    run, whole = client.get_run(begun), client.get_run(run_id)
    assert run.info.status == "FINISHED" and run.info.run_name == whole.info.run_name
    assert run.data.metrics == whole.data.metrics and run.data.params == whole.data.params
    critic = client.get_metric_history(begun, "train/critic")
    assert sorted((m.step, m.value) for m in critic) == [(turn, 1 / (turn + 1)) for turn in range(1500)]
    client.delete_run(begun)


def test_a_run_in_which_nothing_was_trained_gives_way_to_that_of_the_same_result(
    workspace: Path, client: MlflowClient, run_id: str
):
    begun = client.create_run(client.get_run(run_id).info.experiment_id).info.run_id
    assert publish(workspace, begun=Begun(begun, {})) == run_id
    assert client.get_run(begun).info.lifecycle_stage == "deleted"
    assert publish(workspace, begun=Begun(begun, {"train/": pd.DataFrame})) == run_id  # a user has deleted it


@pytest.mark.parametrize(
    "host, pid, status",
    [
        ("here", "dead", "KILLED"),
        ("here", "given to another process", "KILLED"),
        ("here", "alive", "RUNNING"),
        ("away", "dead", "RUNNING"),
    ],
)
def test_only_runs_of_dead_publishers_here_are_closed(
    workspace: Path, client: MlflowClient, run_id: str, host: str, pid: str, status: str
):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    tags = {
        "publisher.host": socket.gethostname() if host == "here" else "elsewhere",
        "publisher.pid": str(ended.pid if pid == "dead" else os.getpid()),
    }
    start = 1 if pid.startswith("given") else None  # milliseconds; None is now
    left = client.create_run(client.get_run(run_id).info.experiment_id, start_time=start, tags=tags)
    assert publish(workspace) == run_id
    assert client.get_run(left.info.run_id).info.status == status
    client.delete_run(left.info.run_id)


def test_a_name_that_mlflow_refuses_is_named_with_its_key(workspace: Path, run_id: str) -> None:
    check_store(workspace, "toy", NAME)
    check_store(workspace, "toy", None)
    with pytest.raises(UserError, match=r"^register\.name: MLflow refuses '\.\.': "):
        check_store(workspace, "toy", "..")
    with pytest.raises(UserError, match=r"^register\.experiment: MLflow refuses 'x+': .* 500 characters$"):
        check_store(workspace, "x" * 501, NAME)
