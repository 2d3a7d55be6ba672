"""The page of the playground without a browser: its function, what it asks for, and who may reach it."""

import base64
import socket
from pathlib import Path
from typing import Any

import anyio
import httpx
import numpy as np
import pytest

from dmd.errors import UserError
from dmd.teachers.teacher import Teacher
from flows.playing import server
from flows.playing.models import Pair, load_pair
from tests.helpers.networks import CPU
from tests.helpers.teachers.generators import generator_folder

pytest.importorskip("gradio", reason="the extra `playground` is not installed")

TOKEN, PORT = "t" * 43, 7860
OWN = {"authorization": "Basic " + base64.b64encode(f"onestep:{TOKEN}".encode()).decode()}


@pytest.fixture
def pair(teacher: Teacher, teacher_folder: Path, tmp_path: Path) -> Pair:
    """A student of one step beside its teacher."""
    generator_folder(teacher, tmp_path / "generator")
    return load_pair(tmp_path / "generator", teacher_folder, 1.0, CPU)


def test_the_function_of_the_page_gives_two_pictures_with_their_cost(pair: Pair) -> None:
    import gradio as gr

    from flows.playing.page import answer

    picture, cost, beside, dearer = answer(pair, ["3", "7"], 5, 2, 1, 4)
    drawn = pair.draw(["3", "7"], 5, 2, 1, 4)
    assert (np.asarray(picture) == np.asarray(drawn[0].picture)).all()
    assert (np.asarray(beside) == np.asarray(drawn[1].picture)).all()
    assert cost.endswith(" s, 1 network pass per image") and dearer.endswith(" s, 4 network passes per image")
    with pytest.raises(gr.Error, match="labels: none is chosen"):
        answer(pair, [], 0, 1, 1, 1)


@pytest.mark.parametrize(
    ("status", "host", "headers"),
    [
        (200, f"127.0.0.1:{PORT}", OWN),
        (401, f"127.0.0.1:{PORT}", {}),
        (403, f"127.0.0.1:{PORT}", {**OWN, "origin": "http://127.0.0.1:8000"}),
        (403, f"127.0.0.1:{PORT}", {**OWN, "sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}),
        (403, f"evil.example:{PORT}", OWN),
    ],
)
def test_only_its_own_page_with_the_token_is_answered(
    pair: Pair, tmp_path: Path, status: int, host: str, headers: dict[str, str]
) -> None:
    answer = ask(server.make_app(pair, PORT, TOKEN, tmp_path), host, headers)
    assert answer.status_code == status
    assert answer.headers["x-frame-options"] == "DENY"
    assert ("gradio_config" in answer.text) == (status == 200)


def test_a_missing_package_and_a_wrong_port_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as s:
        s.bind((server.HOST, 0))
        s.listen()
        with pytest.raises(UserError, match="is in use by another program"):
            server.check_ready(s.getsockname()[1])
    with pytest.raises(UserError, match="--port: 0 is not a port"):
        server.check_ready(0)
    monkeypatch.setattr(server, "find_spec", lambda _name: None)
    with pytest.raises(UserError, match=r"pip install '\.\[playground\]'") as error:
        server.check_ready(PORT)
    assert "\n" not in str(error.value)


def ask(app: Any, host: str, headers: dict[str, str]) -> httpx.Response:
    """Send a GET for the page to the app."""

    async def send() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=f"http://{host}") as client:
            return await client.get("/", headers=headers)

    return anyio.run(send)
