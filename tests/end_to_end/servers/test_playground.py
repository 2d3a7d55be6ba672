"""The playground in a real browser: it draws the student's picture, and a page of another site can do nothing."""

import io
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dmd.teachers.teacher import Teacher
from flows.playing.models import load_pair
from tests.helpers.browser import chromium, visit
from tests.helpers.networks import CPU
from tests.helpers.projects import ROOT, environment
from tests.helpers.servers import free_port
from tests.helpers.teachers.generators import generator_folder

pytestmark = pytest.mark.slow
pytest.importorskip("gradio", reason="the extra `playground` is not installed")

PATIENCE = 120_000  # milliseconds
CONTENT = "async url => Array.from(new Uint8Array(await (await fetch(url)).arrayBuffer()))"
ATTACKS = """
async url => {
  const found = [];
  for (const path of ['/', '/config', '/gradio_api/info', '/gradio_api/queue/join', '/gradio_api/upload']) {
    for (const mode of ['cors', 'no-cors']) {
      const post = path.includes('join') || path.includes('upload');
      const options = {mode, credentials: 'include', method: post ? 'POST' : 'GET', body: post ? '{}' : undefined};
      try { const answer = await fetch(url + path, options); if (answer.ok) found.push(path); } catch (e) {}
    }
  }
  return found;
}
"""


@pytest.fixture
def process(teacher: Teacher, teacher_folder: Path, tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """The command on a student and its teacher, in a folder that is not the project's."""
    generator_folder(teacher, tmp_path / "generator", 999, 499)
    argv = ["-m", "flows.playground", "generator", "--teacher", str(teacher_folder), "--port", str(free_port())]
    command = subprocess.Popen(
        [sys.executable, *argv], cwd=tmp_path, env={**environment(), "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        yield command
    finally:
        command.terminate()
        command.wait(30)


def test_it_draws_the_students_picture_beside_the_teachers(
    process: "subprocess.Popen[str]", teacher_folder: Path, tmp_path: Path
) -> None:
    link, refused = open_link(process), []
    pair = load_pair(tmp_path / "generator", teacher_folder, 1.0, CPU)
    with chromium() as browser, visit(browser, link, until="networkidle") as view:
        page = view.page
        page.on("response", lambda answer: refused.append(answer.status) if answer.status in (401, 403) else None)
        page.get_by_label("Seed").fill("5")
        page.get_by_role("button", name="Draw").click()
        page.get_by_text("50 network passes per image").wait_for(timeout=PATIENCE)
        pictures = page.locator("img[src*='/file=']").all()
        drawn = [load_picture(bytes(page.evaluate(CONTENT, p.get_attribute("src")))) for p in pictures]
        wanted = pair.draw([str(i) for i in range(8)], 5, 4, 2, 50)
        assert [p.shape for p in drawn] == [np.asarray(d.picture).shape for d in wanted]
        assert all((p == np.asarray(d.picture)).all() for p, d in zip(drawn, wanted, strict=True))
        assert [p["area"] > 10_000 for p in view.pictures() if p["own"] > 10_000] == [True, True]  # beside icons
        view.screenshot("playground", tmp_path)
        own = link.split("@")[1].split("/")[0]
        assert [r for r in view.requests if own not in r] == [] and view.errors == [] and refused == []
        page.get_by_label("Seed").fill("-1")
        page.get_by_role("button", name="Draw").click()
        page.get_by_text("it must be from 0 to").first.wait_for(timeout=PATIENCE)


def test_a_page_of_another_site_reads_and_starts_nothing(process: "subprocess.Popen[str]") -> None:
    link = open_link(process)
    other = HTTPServer(("127.0.0.1", free_port()), Empty)
    threading.Thread(target=other.serve_forever, daemon=True).start()
    try:
        with chromium() as browser:
            context = browser.new_context()  # one browser, which is logged in at the playground
            page = context.new_page()
            page.goto(link)
            page.get_by_role("button", name="Draw").wait_for(timeout=PATIENCE)
            assert page.evaluate(ATTACKS, "")[:2] == ["/", "/"]  # its own page may
            page.goto(f"http://127.0.0.1:{other.server_port}/")
            own = "http://" + link.split("@")[1].split("/")[0]
            answers: list[int] = []
            page.on("response", lambda answer: answers.append(answer.status))
            assert page.evaluate(ATTACKS, own) == []
            assert answers and set(answers) <= {401, 403}, answers
    finally:
        other.shutdown()


def open_link(process: "subprocess.Popen[str]") -> str:
    """Wait for the link that the command prints, and then for its server."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("the link logs"):
            break
    links = [line.split()[1] for line in lines if line.startswith("open ")]
    assert len(links) == 1, "".join(lines)
    return links[0]


def load_picture(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


class Empty(BaseHTTPRequestHandler):
    """A site with an empty page."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>other</title>")

    def log_message(self, *args: object) -> None: ...
