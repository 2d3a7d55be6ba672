"""The temporary Prefect server ends with its run, and not before: one that is killed starts again."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import httpx
import pytest

from dmd.errors import UserError
from flows.services import temporary_server
from flows.services.temporary_server import TemporaryServer
from tests.helpers.projects import ROOT, environment
from tests.helpers.servers import eventually

PROGRAM = """
import logging
from dmd.errors import UserError
from flows.services import temporary_server

class Server:
    def __setattr__(self, name, value):
        logging.getLogger("prefect.server").error("an error of a service that is cancelled")

logging.getLogger("prefect.server").error("an error before")
temporary_server.GRACE = 0
temporary_server._end_with_parent(Server())
"""


def test_the_server_logs_nothing_once_its_run_has_ended() -> None:
    """Prefect's services log tracebacks when they are cancelled, which would follow the last line of a stopped run."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, input=b"", capture_output=True, check=True)
    assert b"an error before" in done.stderr and b"cancelled" not in done.stderr


HEALTHY = """
import http.server, sys

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass

http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def test_a_server_that_is_killed_starts_again_on_its_port(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started = list[subprocess.Popen[bytes]]()

    def spawn(port: int, _env: Mapping[str, str]) -> "subprocess.Popen[bytes]":
        argv = [sys.executable, "-c", HEALTHY, str(port)]
        started.append(subprocess.Popen(argv, stdin=subprocess.PIPE))
        return started[-1]

    monkeypatch.setattr(temporary_server, "_spawn", spawn)
    monkeypatch.setattr(temporary_server, "END_PATIENCE", 0.0)
    server = TemporaryServer(lambda: None, {}, 60)
    server.start()
    url = server.wait()
    started[0].kill()

    def answers() -> bool:
        try:
            return len(started) == 2 and httpx.get(f"{url}/health", trust_env=False).is_success
        except httpx.HTTPError:
            return False

    assert eventually(answers, 60)
    assert capsys.readouterr().err == "the temporary Prefect server ended with exit code -9; it starts again\n"
    server._end()
    assert not eventually(lambda: len(started) > 2, 1)
    assert started[1].poll() is not None and capsys.readouterr().err == ""


@pytest.mark.slow
def test_a_flow_whose_server_is_killed_completes(tmp_path: Path) -> None:
    program = """
import psutil
from pathlib import Path
from flows.services.prefect_setup import set_up_prefect
set_up_prefect(Path.cwd())
from prefect import flow, task

@task
def step(number: int) -> int:
    return number

@flow
def work() -> int:
    step(1)
    servers = [p for p in psutil.Process().children() if "flows.services.temporary_server" in p.cmdline()]
    assert len(servers) == 1
    servers[0].kill()
    return step(2)

assert work() == 2
"""
    variables = environment() | {"PYTHONPATH": str(ROOT), "PREFECT_HOME": str(tmp_path / "prefect")}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and "it starts again" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and "Error" not in done.stderr, done.stderr


def test_a_server_that_goes_away_for_good_is_one_line() -> None:
    from prefect.context import TagsContext

    from flows.services.prefect_server import calling_a_flow

    with calling_a_flow():
        assert TagsContext.get().current_tags == {"onestep"}
    with (
        pytest.raises(UserError, match=r"^the Prefect server .* does not answer any more \(refused\); finished stages"),
        calling_a_flow(),
    ):
        raise httpx.ConnectError("refused")
