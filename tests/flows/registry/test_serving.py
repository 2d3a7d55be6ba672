"""MLflow's scoring server answers valid requests with images, and invalid requests with a sentence."""

import base64
import io
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from PIL import Image

from flows.runtime.process import end_group
from tests.helpers.published import NAME

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def address(client: MlflowClient, version: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    model = [f"models:/{NAME}/{version}", "--env-manager", "local", "-h", "127.0.0.1", "-p", str(port)]
    folder = tmp_path_factory.mktemp("server")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "MLFLOW_TRACKING_URI": client.tracking_uri, "PATH": path}
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "models", "serve", "-m", *model], cwd=folder, env=env, stdout=log,
            stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip
    try:
        url = f"http://127.0.0.1:{port}"
        for _ in range(360):
            assert server.poll() is None, (folder / "log").read_text()[-2000:]
            try:
                with urllib.request.urlopen(f"{url}/health", timeout=5):
                    break
            except OSError:
                time.sleep(0.5)
        yield url
    finally:
        end_group(server)


def ask(address: str, body: str) -> tuple[int, Any]:
    request = urllib.request.Request(f"{address}/invocations", body.encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as e:
        return e.code, json.load(e)


def records(*rows: dict[str, Any], **params: Any) -> str:
    return json.dumps({"dataframe_records": list(rows), "params": params})


def test_labels_seed_and_count_give_pngs(address: str) -> None:
    status, answer = ask(address, records({"label": 2}, {"label": 0}, seed=7, images=2))
    assert status == 200 and [row["label"] for row in answer["predictions"]] == [2, 2, 0, 0]
    images = [Image.open(io.BytesIO(base64.b64decode(row["png"]))) for row in answer["predictions"]]
    assert {image.size for image in images} == {(8, 8)}
    assert ask(address, records({"label": 2}, {"label": 0}, seed=7, images=2))[1] == answer
    assert ask(address, records({"label": 2}, {"label": 0}, seed=8, images=2))[1] != answer


@pytest.mark.parametrize(
    "body, sentence",
    [
        (records({"label": 3}), "label: 3 is unknown; labels go from 0 to 2"),
        (records({"label": -1}), "label: -1 is unknown"),
        (records({"label": "two"}), "label"),
        (records({"colour": 1}), "label: missing; every row needs one"),
        (records({"label": 1, "prompt": "a two"}), "prompt: this generator reads no text; give labels"),
        (records({"label": 1}, images=5000), "1 rows x 5000 images are too many"),
        (records({"label": 1}, images=0), "images: 0 is not allowed"),
        (records({"label": 1}, seed=-1), "seed: -1 is not allowed"),
        (records(), "label"),
        ("{", "JSON"),
    ],
)
def test_a_bad_request_is_a_client_error_with_a_sentence(address: str, body: str, sentence: str) -> None:
    status, answer = ask(address, body)
    assert 400 <= status < 500 and sentence.lower() in json.dumps(answer).lower(), (status, answer)
