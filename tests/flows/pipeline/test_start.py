"""A run starts its slowest checks first, then its Prefect server; it says cheap mistakes before either."""

from pathlib import Path

import pytest

from dmd.errors import UserError
from flows import distill
from flows.pipeline.request import Request
from flows.services import prefect_setup
from flows.services.prefect_setup import begin_to_set_up_prefect


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
    monkeypatch.setattr("flows.preflight.networks.begin_checks", lambda run: done.append(f"begin {run}"))
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


def test_an_error_of_the_server_is_raised_when_the_setup_is_finished(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The thread that starts it must not swallow the error, or print it by itself."""

    def fail(*_args: object) -> None:
        raise UserError("the database is of another version")

    for name in ("ONESTEP_ROOT", "PREFECT_API_AUTH_STRING", "PREFECT_SERVER_API_AUTH_STRING"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("PREFECT_SERVER_CORS_ALLOWED_ORIGINS", "")
    monkeypatch.setattr(prefect_setup.guard, "start", lambda: None)
    monkeypatch.setattr("flows.services.prefect_server.is_configured", lambda: False)
    monkeypatch.setattr("flows.services.prefect_server.filter_console", lambda: None)
    monkeypatch.setattr(prefect_setup, "temporary_database", lambda: tmp_path / "prefect.db")
    monkeypatch.setattr(prefect_setup, "prepare_database", fail)
    monkeypatch.setattr(prefect_setup.temporary_server, "start", pytest.fail)
    finish = begin_to_set_up_prefect(tmp_path)
    with pytest.raises(UserError, match="the database is of another version"):
        finish()
