"""A run starts its slowest checks first, then its Prefect server; it says cheap mistakes before either."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from dmd.errors import UserError
from flows import distill
from flows.pipeline.request import Request
from flows.services import prefect_server, prefect_setup, temporary_server
from flows.services.prefect_setup import begin_to_set_up_prefect
from tests.helpers.servers import eventually


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The order of the steps of a run, whose checks fail."""
    done: list[str] = []

    def check(run: str) -> None:
        done.append(f"check {run}")
        raise UserError("a check fails")

    request = Request(Path("nowhere"), {}, [], (), target="data")
    monkeypatch.setattr("dmd.signals.signal.signal", lambda *_: None)
    monkeypatch.setattr("flows.pipeline.request.read_request", lambda *_: done.append("read") or request)
    monkeypatch.setattr("flows.preflight.checks.begin_before", lambda run: done.append(f"begin {run}"))
    monkeypatch.setattr(prefect_setup, "begin_to_set_up_prefect", lambda _root: done.append("server"))
    monkeypatch.setattr(Request, "find_commit", lambda _request: done.append("commit") or "")
    monkeypatch.setattr(distill, "_import_flow", lambda: done.append("import"))
    monkeypatch.setattr(Request, "describe", lambda _request, registers: "run")
    monkeypatch.setattr("flows.preflight.checks.check_before", check)
    return done


def test_the_checks_that_take_seconds_run_while_the_server_starts(
    steps: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "dvc.yaml").write_text("stages: {}")
    monkeypatch.chdir(tmp_path)
    assert distill.main(["--target", "data"]) == 1
    assert steps == ["read", "commit", "begin run", "server", "import", "check run"]
    assert capsys.readouterr().err == "error: a check fails\n"


@pytest.fixture
def without_prefect(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """No server of Prefect is configured, and none is started."""
    names = ("ONESTEP_ROOT", "PREFECT_API_AUTH_STRING", "PREFECT_SERVER_API_AUTH_STRING", "PREFECT_API_URL")
    for name in (*names, "PREFECT_SERVER_CORS_ALLOWED_ORIGINS"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(prefect_setup.guard, "start", lambda: None)
    monkeypatch.setattr("flows.services.prefect_server.is_configured", lambda: False)
    monkeypatch.setattr("flows.services.prefect_server.filter_console", lambda: None)
    monkeypatch.setattr(prefect_setup, "temporary_database", lambda: tmp_path / "prefect.db")
    monkeypatch.setattr(temporary_server, "_spawn", pytest.fail)
    return monkeypatch


def test_an_error_of_the_server_is_raised_when_the_setup_is_finished(
    without_prefect: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The thread that starts it must not swallow the error, or print it by itself."""

    def fail(*_args: object) -> None:
        raise UserError("the database is of another version")

    without_prefect.setattr(prefect_setup, "prepare_database", fail)
    finish = begin_to_set_up_prefect(tmp_path)
    with pytest.raises(UserError, match="the database is of another version"):
        finish()


def test_a_server_starts_before_prefect_is_imported_and_ends_if_a_profile_names_another(
    without_prefect: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    started = list[subprocess.Popen[bytes]]()

    def spawn(_port: int, env: Mapping[str, str]) -> "subprocess.Popen[bytes]":
        assert env["PREFECT_SERVER_API_AUTH_STRING"] and not os.environ["PREFECT_SERVER_API_AUTH_STRING"]
        started.append(subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE))
        return started[-1]

    without_prefect.setattr(temporary_server, "_spawn", spawn)
    without_prefect.setattr(prefect_setup, "is_current", lambda *_: True)
    without_prefect.setattr(prefect_setup, "prepare_database", lambda *_: None)
    without_prefect.setattr(prefect_setup, "_import_prefect", lambda: eventually(lambda: started, 10))
    without_prefect.setattr("flows.services.prefect_server.is_configured", lambda: bool(started))
    assert begin_to_set_up_prefect(tmp_path) is prefect_server.check_server
    assert started[0].returncode == -signal.SIGKILL and not os.environ["PREFECT_API_AUTH_STRING"]
    assert capsys.readouterr().err == ""
