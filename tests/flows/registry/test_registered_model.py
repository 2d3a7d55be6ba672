"""A result is registered once, and the registered model runs without this project."""

import base64
import io
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import DDIMScheduler, UNet2DModel  # pyright: ignore[reportPrivateImportUsage]
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from PIL import Image

from dmd.errors import UserError
from flows.pipeline.experiments import keep_result
from flows.pipeline.summary import summarize, summarize_experiments
from flows.registry.mlflow_model import REQUIREMENTS, standalone_code
from flows.registry.result import RESULT
from flows.registry.store import tracking_uri
from flows.registry.tracking import publish
from flows.registry.versions import find_registered, register
from flows.runtime.git import git
from tests.helpers.published import NAME, SHAPE, make_results, reproduce


@pytest.mark.slow
def test_registering_twice_makes_one_version(workspace: Path, client: MlflowClient, run_id: str, version: str):
    assert register(workspace, run_id) == version == "1"
    assert [v.version for v in client.search_model_versions(f"name = '{NAME}'")] == [1]
    assert find_registered(workspace) == version
    assert client.get_run(run_id).info.status == "FINISHED"


def test_a_version_carries_lineage_and_headline_figures(client: MlflowClient, run_id: str, version: str):
    result = client.get_model_version_by_alias(NAME, "candidate")
    assert str(result.version) == version
    assert result.run_id == run_id
    tags = client.get_run(run_id).data.tags
    assert {result.tags[key] == tags[key] for key in (RESULT, "git.sha", "dvc.data.md5", "dvc.lock.sha256")} == {True}
    figures = {key: float(result.tags[key]) for key in ("fd.clip", "fd.cnn", "ratio.clip", "clip_score", "nfe")}
    assert figures == {"fd.clip": 1.25, "fd.cnn": 0.5, "ratio.clip": 1.0, "clip_score": 21.5, "nfe": 1}


def test_the_files_of_the_model_lie_beside_the_store(workspace: Path, client: MlflowClient, run_id: str, version: str):
    source = client.get_model_version(NAME, version).source
    assert source is not None
    model = client.get_logged_model(source.removeprefix("models:/"))
    assert model.artifact_location.startswith((workspace / "runs" / "mlflow" / "artifacts").as_uri())
    assert (model.source_run_id, model.experiment_id) == (run_id, client.get_run(run_id).info.experiment_id)
    assert not Path("mlruns").exists()


def test_the_logged_model_has_the_figures_of_its_run(client: MlflowClient, run_id: str, version: str) -> None:
    source = client.get_model_version(NAME, version).source or ""
    metrics = client.get_logged_model(source.removeprefix("models:/")).metrics or []
    figures = {m.key: m.value for m in metrics if not m.key.startswith("train/")}  # of a curve, it has one point
    of_run = {key: v for key, v in client.get_run(run_id).data.metrics.items() if not key.startswith("train/")}
    assert figures == of_run and figures["student.fd.clip"] == 1.25


def test_the_card_names_the_warm_start_and_what_its_table_is_of(
    workspace: Path, client: MlflowClient, version: str
) -> None:
    card = client.get_model_version(NAME, version).description or ""
    commit = git(workspace, "rev-parse", "--short", "HEAD")
    for words in (
        "a warm start of 2,000 turns of regression on the teacher's pairs, then 100 turns of the critic alone, then ",
        "Data: digits. Method: dmd. Training cost: generator turns: 1,500. Judges: clip, cnn. ",
        "is of 4 x 1,797 images, against 1,347 training images. Lower is better: FD, ",
        "Higher is better: CLIP score, ",
        "Lower, down to 0 is better: KID", f"Commit {commit}, {time.strftime('%Y-')}",
    ):  # fmt: skip
        assert words in card, (words, card)


@pytest.mark.slow
def test_the_candidate_follows_the_workspace_and_another_result_is_another_version(
    workspace: Path, client: MlflowClient, run_id: str, version: str
):
    shutil.rmtree(workspace / "source")
    make_results(workspace / "source", seed=1)
    reproduce(workspace)
    assert find_registered(workspace) is None
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


def test_the_registered_code_holds_the_loop_in_place_of_its_import() -> None:
    code = standalone_code()
    assert "def run_steps(" in code and "import run_steps" not in code
    imports = [line.split()[1] for line in code.splitlines() if line.startswith(("import ", "from "))]
    assert not [name for name in imports if name.startswith(("dmd", "flows"))]


ASK = """
import os, sys
import mlflow, pandas as pd
model = mlflow.pyfunc.load_model("models:/toy-model@candidate")
model.predict(pd.DataFrame({"label": [2, 0]}), params={"seed": 7, "images": 2}).to_json(sys.argv[1])
assert not {"dmd", "flows"} & sys.modules.keys()
"""


@pytest.mark.slow
def test_a_new_process_gets_the_images_of_diffusers(
    workspace: Path, client: MlflowClient, version: str, tmp_path: Path
):
    env = {**os.environ, "MLFLOW_TRACKING_URI": client.tracking_uri, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
    subprocess.run([sys.executable, "-c", ASK, str(tmp_path / "answer.json")], cwd=tmp_path, env=env, check=True)
    answer = pd.read_json(tmp_path / "answer.json")
    assert answer["label"].tolist() == [2, 2, 0, 0]
    images = [np.asarray(Image.open(io.BytesIO(base64.b64decode(png)))) for png in answer["png"]]
    assert np.abs(np.stack(images).astype(int) - expected_images(workspace, [2, 2, 0, 0], seed=7)).max() <= 1


def expected_images(workspace: Path, labels: list[int], seed: int) -> np.ndarray:
    """Images of one-step sampling with v-prediction at the last timestep: x0 = alpha x - sigma v."""
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
def test_a_bad_request_is_a_client_error(version: str, label: int, params: dict[str, int], sentence: str):
    model = mlflow.pyfunc.load_model(f"models:/{NAME}/{version}")
    with pytest.raises(mlflow.MlflowException, match=sentence) as caught:
        model.predict(pd.DataFrame({"label": [label]}), params=params)
    assert caught.value.get_http_status_code() == 400


@pytest.mark.usefixtures("as_a_user_would")
def test_the_requirements_name_installed_versions(version: str):
    folder = Path(download_artifacts(f"models:/{NAME}/{version}"))
    lines = (folder / "requirements.txt").read_text().split()
    assert {line.split("==")[0] for line in lines} == set(REQUIREMENTS)
    assert all(line.count("==") == 1 for line in lines)


def test_the_summary_names_result_and_next_commands(workspace: Path, version: str):
    words = summarize(workspace, version)
    assert [line.split()[0] for line in words.splitlines()[3:6]] == ["real", "teacher", "student"]
    assert max(map(len, words.splitlines()[:11])) <= 120
    for part in (
        "Data: digits. Method: dmd. Training cost: generator turns: 1,500. Judges: clip, cnn.",
        "FD, student / best teacher: clip 1.000, cnn 1.000",
        "reports/index.html",
        f"models:/{NAME}@candidate",
        f"{NAME} version {version}",
        f"mlflow ui --backend-store-uri '{tracking_uri(workspace)}'",
        "-m dmd.sample --generator artifacts/generator --labels 0,1,2 --seed 0 --out grid.png",
        "dvc exp run -S ",
    ):
        assert part in words
    assert "model:      not registered" in summarize(workspace, None)


def test_experiments_end_with_a_table_each_their_mean_and_the_places_of_their_results(workspace: Path, version: str):
    names = ["quick-seed0-0123ab", "quick-seed1-0123cd"]
    for name in names:
        keep_result(workspace, name)
    words = summarize_experiments(workspace, names)
    lines = words.splitlines()
    assert max(map(len, lines[: lines.index("next:")])) <= 120
    for name in names:
        table = lines[lines.index(f"{name}:") + 1 :]
        assert [line.split()[0] for line in table[3:6]] == ["real", "teacher", "student"]
        folder = f"runs/experiments/{name}"
        assert (
            f"report:     {folder}/reports/index.html" in lines and (workspace / folder / "reports/index.html").exists()
        )
        assert f"generator:  {folder}/artifacts/generator" in lines
        assert (workspace / folder / "artifacts/generator/generator.json").is_file()
    (mean,) = [line for line in lines if line.startswith("mean ± std")]
    assert mean.split()[3:] == ["1.000", "±", "0.000"] * 2 + ["0.500", "±", "0.000"] * 2
    for part in (f"xdg-open runs/experiments/{names[1]}/reports", "dvc exp show --only", f"dvc exp apply {names[1]}"):
        assert part in words
    alone = summarize_experiments(workspace, names[:1])
    assert "mean" not in alone and names[1] not in alone


def test_a_large_generator_stays_in_the_cache(workspace: Path, version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.pipeline.experiments.MOST_COPIED", 100)
    keep_result(workspace, "large-0123ab")
    words = summarize_experiments(workspace, ["large-0123ab"])
    command = "dvc get . artifacts/generator --rev large-0123ab -o runs/experiments/large-0123ab/artifacts/generator"
    assert f"generator:  in DVC's cache: {command}" in words and "dmd.sample" not in words


def test_a_request_for_large_images_is_answered_in_small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """512 images of 512x512 at once would take hundreds of gigabytes in the VAE; the noise is the same in any batch."""
    from flows.registry.pyfunc_generator import OneStepGenerator

    model: Any = OneStepGenerator()
    vae = SimpleNamespace(config=SimpleNamespace(block_out_channels=[128, 256, 512, 512]))
    model.stock, model.noises, model.pipe, model.steps, model.shape, model.classes, model.captions = (
        None,
        1,
        SimpleNamespace(vae=vae),
        [{}],
        [4, 64, 64],
        [],
        [],
    )
    noise: list[torch.Tensor] = []
    sizes: list[int] = []

    def draw(z: list[torch.Tensor], conditions: list[int]) -> list[str]:
        sizes.append(len(z))
        noise.extend(z)
        return [""] * len(conditions)

    monkeypatch.setattr(model, "_draw", draw)
    answer = model.predict(None, pd.DataFrame({"label": [0] * 20}), {"seed": 3})
    assert sizes == [8, 8, 4] and len(answer) == 20
    rng = torch.Generator().manual_seed(3)
    assert all(torch.equal(z, torch.randn(1, 4, 64, 64, generator=rng)) for z in noise)
