"""A result is published once and registered once, and the registered model stands on its own."""

import base64
import io
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel  # pyright: ignore[reportPrivateImportUsage]
from dvc.repo import Repo
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from PIL import Image
from ruamel.yaml import YAML

from dmd.errors import UserError
from flows import register as registry
from flows import tracking
from flows.record import RESULT
from flows.register import register, registered
from flows.store import tracking_uri
from flows.summary import summary
from flows.tracking import publish

REPO = Path(__file__).parents[1]
NAME = "toy-model"
SHAPE = (1, 8, 8)
OUTS = ("artifacts/data", "artifacts/generator", "artifacts/training")
REPORTS = ("metrics.json", "timing.json", "losses.csv", "samples.png", "index.html", "plots")
FD = {"clip": 1.25, "cnn": 0.5}
SHARES = {kind: {"clip": 0.8, "cnn": 0.7} for kind in ("kid", "precision", "recall", "density", "coverage")}
INTERVAL = {
    kind: {judge: {"low": 0.9 * value, "high": 1.1 * value} for judge, value in values.items()}
    for kind, values in ({"fd": FD} | SHARES).items()
}
MEASURES = {"nfe": 1, "fd": FD, **SHARES, "clip_score": 21.5, "samples": 64, "draws": 3, "interval": INTERVAL}
METRICS = {
    "student": MEASURES,
    "teachers": {"ddim_50": {**MEASURES, "nfe": 50}},
    "real": {"clip_score": 22.0, "fd": {"clip": 0.1, "cnn": 0.1}},
    "best_teacher": {"clip": "ddim_50", "cnn": "ddim_50"},
    "ratio": {"fd": {"clip": 1.0, "cnn": 1.0}},
    "judged": {"extractors": {"clip": {"sha256": "1" * 64}, "cnn": {"sha256": "2" * 64}}},
}


def save_generator(folder: Path, seed: int) -> None:
    """A tiny class-conditional generator, exported as the train stage does."""
    torch.manual_seed(seed)
    unet = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        num_class_embeds=4,
    )
    scheduler = DDIMScheduler(
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        clip_sample=False,
        timestep_spacing="trailing",
    )
    DDIMPipeline(unet, scheduler).save_pretrained(folder)
    product = scheduler.alphas_cumprod[999].double()
    first = {"time": 999, "alpha": 0.0, "sigma": 1.0, "c_in": 1.0}
    first |= {"c_skip": product.sqrt().item(), "c_out": -(1 - product).sqrt().item()}
    about = {"timesteps": [999], "steps": [first], "shape": SHAPE, "classes": ["zero", "one", "two"], "captions": []}
    (folder / "generator.json").write_text(json.dumps(about))


def make_results(source: Path, seed: int = 0) -> None:
    """What the stages of a full run leave, in small."""
    for name in ("data", "training", "reports"):
        (source / name).mkdir(parents=True)
    (source / "data" / "manifest.json").write_text("{}")
    save_generator(source / "generator", seed)
    picture = Image.new("L", (4, 4))
    picture.save(source / "training" / "turn_000100.png")
    picture.save(source / "reports" / "samples.png")
    (source / "reports" / "metrics.json").write_text(json.dumps(METRICS))
    (source / "reports" / "timing.json").write_text(json.dumps({"student": {"nfe": 1, "seconds_per_image": 0.001}}))
    rows = "".join(f"{turn},{1 / (turn + 1)},{turn if turn % 5 == 0 else ''}\n" for turn in range(1500))
    (source / "reports" / "losses.csv").write_text(f"turn,critic,generator\n{rows}")
    (source / "reports" / "plots").mkdir()
    (source / "reports" / "plots" / "fd_clip.svg").write_text("<svg/>")
    (source / "reports" / "index.html").write_text("<html><body><!-- lineage --><!-- /lineage --></body></html>")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A git and DVC repository whose one stage has put all results in their places."""
    root = tmp_path_factory.mktemp("workspace")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        make_results(root / "source")
        yaml = YAML()
        params = yaml.load(REPO / "params.yaml")
        params["register"] |= {"name": NAME, "experiment": "toy"}
        yaml.dump(params, root / "params.yaml")
        copies = " && ".join(["mkdir -p artifacts", *(f"cp -r source/{Path(out).name} {out}" for out in OUTS)])
        stage = {
            "cmd": f"{copies} && cp -r source/reports .",
            "deps": ["source"],
            "outs": [*OUTS, *({f"reports/{name}": {"cache": False}} for name in REPORTS)],
        }
        yaml.dump({"stages": {"everything": stage}}, root / "dvc.yaml")
        subprocess.run(["git", "init", "-q", "-b", "main"], cwd=root, check=True)
        Repo.init(str(root)).close()
        (root / ".gitignore").write_text("/runs/\n/artifacts/\n")
        reproduce(root)
        commit(root)
        yield root


def reproduce(root: Path) -> None:
    subprocess.run([sys.executable, "-m", "dvc", "repro", "-q"], cwd=root, check=True)


def commit(root: Path) -> None:
    author = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    subprocess.run(["git", "add", "-A"], cwd=root, check=True)
    subprocess.run(["git", *author, "commit", "-q", "-m", "toy"], cwd=root, check=True)


@pytest.fixture(scope="module")
def client(workspace: Path) -> MlflowClient:
    return MlflowClient(tracking_uri(workspace))


@pytest.fixture(scope="module")
def run_id(workspace: Path, client: MlflowClient) -> str:
    return publish(workspace, flow_run="a-flow-run")


@pytest.fixture(scope="module")
def version(workspace: Path, run_id: str) -> str:
    return register(workspace, run_id)


@pytest.fixture
def as_a_user_would(client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", client.tracking_uri)


def runs(client: MlflowClient) -> list[Any]:
    experiment = client.get_experiment_by_name("toy")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id]))


def test_publishing_twice_makes_one_run(workspace: Path, client: MlflowClient, run_id: str):
    assert publish(workspace) == run_id
    assert [run.info.status for run in runs(client)] == ["FINISHED"]


def test_a_run_holds_what_dvc_recorded(workspace: Path, client: MlflowClient, run_id: str):
    run = client.get_run(run_id)
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=workspace, capture_output=True, text=True, check=True)
    assert run.data.params["train.batch_size"] == "64"
    assert run.data.params["register.name"] == NAME
    assert run.data.metrics["student.fd.clip"] == 1.25
    assert run.data.metrics["teachers.ddim_50.nfe"] == 50
    assert run.data.metrics["timing.student.seconds_per_image"] == 0.001
    assert run.data.tags["git.sha"] == head.stdout.strip()
    assert run.data.tags["git.dirty"] == "false"
    assert run.data.tags["prefect.flow_run_id"] == "a-flow-run"
    assert {"dvc.lock.sha256", "dvc.data.md5", "params.sha256", RESULT, "publisher.host"} <= run.data.tags.keys()
    assert run.inputs is not None
    dataset = run.inputs.dataset_inputs[0].dataset
    assert dataset.name == "digits"
    assert dataset.digest == run.data.tags["dvc.data.md5"][:8]


def test_curves_are_whole(client: MlflowClient, run_id: str):
    critic = client.get_metric_history(run_id, "train.critic")
    assert [(m.step, m.value) for m in critic] == [(turn, 1 / (turn + 1)) for turn in range(1500)]
    generator = client.get_metric_history(run_id, "train.generator")
    assert [(m.step, m.value) for m in generator] == [(turn, turn) for turn in range(0, 1500, 5)]


def test_pictures_and_the_report_with_lineage_are_there(workspace: Path, client: MlflowClient, run_id: str):
    folder = Path(client.download_artifacts(run_id, ""))
    assert (folder / "pictures" / "samples.png").is_file()
    assert (folder / "pictures" / "training" / "turn_000100.png").is_file()
    assert (folder / "plots" / "fd_clip.svg").is_file()
    assert run_id in (folder / "report" / "index.html").read_text()
    assert run_id not in (workspace / "reports" / "index.html").read_text()


def test_everything_lies_in_the_main_worktree(workspace: Path, client: MlflowClient, run_id: str, tmp_path: Path):
    store = workspace / "runs" / "mlflow"
    assert client.get_run(run_id).info.artifact_uri == (store / "artifacts" / run_id / "artifacts").as_uri()
    other = tmp_path / "other"
    subprocess.run(["git", "worktree", "add", "-q", "--detach", str(other)], cwd=workspace, check=True)
    assert tracking_uri(other) == tracking_uri(workspace) == f"sqlite:///{store / 'mlflow.db'}"


def test_a_relative_store_is_made_absolute_and_a_file_store_refused(workspace: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///here.db")
    assert tracking_uri(workspace) == f"sqlite:///{workspace / 'here.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////there/mlflow.db")
    assert tracking_uri(workspace) == "sqlite:////there/mlflow.db"
    for uri in ("./mlruns", "file:///there/mlruns"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        with pytest.raises(UserError, match="file store"):
            tracking_uri(workspace)


def test_a_server_that_is_not_there_is_one_line(workspace: Path, monkeypatch: pytest.MonkeyPatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # not listening: refused at once
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(UserError, match=r"^the MLflow server http://127.* can't be reached .*$"):
            publish(workspace)


def test_a_workspace_that_differs_from_the_record_is_refused(workspace: Path, run_id: str):
    card = workspace / "artifacts" / "generator" / "generator.json"
    before = card.read_text()
    card.chmod(0o644)
    card.write_text(before + " ")
    try:
        with pytest.raises(UserError, match=r"not what dvc\.lock records: everything; run `dvc repro`"):
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


def test_registering_twice_makes_one_version(workspace: Path, client: MlflowClient, run_id: str, version: str):
    assert register(workspace, run_id) == version == "1"
    assert [v.version for v in client.search_model_versions(f"name = '{NAME}'")] == [1]
    assert registered(workspace) == version
    assert client.get_run(run_id).info.status == "FINISHED"


def test_a_version_carries_lineage_and_headline_figures(client: MlflowClient, run_id: str, version: str):
    found = client.get_model_version_by_alias(NAME, "candidate")
    assert str(found.version) == version
    assert found.run_id == run_id
    tags = client.get_run(run_id).data.tags
    assert {found.tags[key] == tags[key] for key in (RESULT, "git.sha", "dvc.data.md5", "dvc.lock.sha256")} == {True}
    figures = {key: float(found.tags[key]) for key in ("fd.clip", "fd.cnn", "ratio.clip", "clip_score", "nfe")}
    assert figures == {"fd.clip": 1.25, "fd.cnn": 0.5, "ratio.clip": 1.0, "clip_score": 21.5, "nfe": 1}


def test_the_models_files_lie_beside_the_store(workspace: Path, client: MlflowClient, run_id: str, version: str):
    source = client.get_model_version(NAME, version).source
    assert source is not None
    model = client.get_logged_model(source.removeprefix("models:/"))
    assert model.artifact_location.startswith((workspace / "runs" / "mlflow" / "artifacts").as_uri())
    assert (model.source_run_id, model.experiment_id) == (run_id, client.get_run(run_id).info.experiment_id)
    assert not Path("mlruns").exists()


def test_a_moved_alias_comes_back_and_another_result_is_another_version(
    workspace: Path, client: MlflowClient, run_id: str, version: str
):
    shutil.rmtree(workspace / "source")
    make_results(workspace / "source", seed=1)
    reproduce(workspace)
    assert registered(workspace) is None
    other = publish(workspace)
    with pytest.raises(UserError, match="another result"):
        register(workspace, run_id)
    assert (other != run_id, register(workspace, other)) == (True, "2")
    shutil.rmtree(workspace / "source")
    make_results(workspace / "source")
    reproduce(workspace)
    assert (publish(workspace), register(workspace, run_id)) == (run_id, version)
    assert str(client.get_model_version_by_alias(NAME, "candidate").version) == version


@pytest.mark.usefixtures("as_a_user_would")
def test_the_model_holds_no_pickle(version: str):
    folder = Path(download_artifacts(f"models:/{NAME}/{version}"))
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {".py", ".json", ".yaml", ".safetensors", ".txt", ".md", ""}
    assert {path.name for path in files if not path.suffix} == {"MLmodel", "registered_model_meta"}
    assert not [path for path in files if path.read_bytes()[:2] in (b"PK", b"\x80\x04", b"\x80\x05")]
    assert any(path.suffix == ".safetensors" for path in files)


ASK = """
import os, sys
import mlflow, pandas as pd
model = mlflow.pyfunc.load_model("models:/toy-model@candidate")
model.predict(pd.DataFrame({"label": [2, 0]}), params={"seed": 7, "images": 2}).to_json(sys.argv[1])
assert not {"dmd", "flows"} & sys.modules.keys()
"""


def test_a_new_process_gets_the_images_that_diffusers_makes(
    workspace: Path, client: MlflowClient, version: str, tmp_path: Path
):
    env = {**os.environ, "MLFLOW_TRACKING_URI": client.tracking_uri, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
    subprocess.run([sys.executable, "-c", ASK, str(tmp_path / "answer.json")], cwd=tmp_path, env=env, check=True)
    answer = pd.read_json(tmp_path / "answer.json")
    assert answer["label"].tolist() == [2, 2, 0, 0]
    images = [np.asarray(Image.open(io.BytesIO(base64.b64decode(png)))) for png in answer["png"]]
    assert np.abs(np.stack(images).astype(int) - by_hand(workspace, [2, 2, 0, 0], seed=7)).max() <= 1


def by_hand(workspace: Path, labels: list[int], seed: int) -> np.ndarray:
    """v-prediction at the last timestep, written out: x0 = alpha x - sigma v."""
    unet = UNet2DModel.from_pretrained(workspace / "artifacts" / "generator", subfolder="unet").eval()
    rng = torch.Generator().manual_seed(seed)
    z = torch.stack([torch.randn(SHAPE, generator=rng) for _ in labels])
    alpha_squared = DDIMScheduler(beta_schedule="squaredcos_cap_v2").alphas_cumprod[999]
    with torch.inference_mode():
        v = unet(z, 999, class_labels=torch.tensor(labels)).sample
    x0 = alpha_squared.sqrt() * z - (1 - alpha_squared).sqrt() * v
    return ((x0.clamp(-1, 1) + 1) * 127.5).round().squeeze(1).numpy().astype(int)


@pytest.mark.parametrize(
    "label, params, sentence",
    [
        (3, {}, "label: 3 is unknown; labels go from 0 to 2"),
        (-1, {}, "label: -1 is unknown"),
        (0, {"images": 0}, "images: 0 is not allowed; it must be 1 or more"),
        (0, {"images": 5000}, "1 rows x 5000 images are too many"),
        (0, {"seed": -1}, "seed: -1 is not allowed; it must be 0 or more"),
    ],
)
@pytest.mark.usefixtures("as_a_user_would")
def test_a_bad_request_is_the_askers_fault(version: str, label: int, params: dict[str, int], sentence: str):
    model = mlflow.pyfunc.load_model(f"models:/{NAME}/{version}")
    with pytest.raises(mlflow.MlflowException, match=sentence) as caught:
        model.predict(pd.DataFrame({"label": [label]}), params=params)
    assert caught.value.get_http_status_code() == 400


@pytest.mark.usefixtures("as_a_user_would")
def test_the_requirements_name_installed_versions(version: str):
    folder = Path(download_artifacts(f"models:/{NAME}/{version}"))
    lines = (folder / "requirements.txt").read_text().split()
    assert {line.split("==")[0] for line in lines} == set(registry.NEEDS)
    assert all(line.count("==") == 1 for line in lines)


def test_the_last_words_name_everything(workspace: Path, version: str):
    words = summary(workspace, version)
    assert [line.split()[0] for line in words.splitlines()[3:6]] == ["real", "teacher", "student"]
    for part in (
        "FD, student / best teacher: 1.000 on clip features, 1.000 on cnn features",
        "reports/index.html",
        f"models:/{NAME}@candidate",
        f"{NAME} version {version}",
        f"mlflow ui --backend-store-uri '{tracking_uri(workspace)}'",
        "-m dmd.sample --generator artifacts/generator --labels 0,1,2 --seed 0 --out grid.png",
        "dvc exp run -S ",
    ):
        assert part in words
