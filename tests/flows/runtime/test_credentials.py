"""Passwords and tokens move out of addresses, and appear in no message."""

import sys
from pathlib import Path

import pytest

from dmd.config import load_params
from dmd.errors import ConfigError, UserError
from dmd.redaction import redact
from flows.registry.store import check_reachable, tracking_uri
from flows.runtime.command import run_command
from flows.runtime.credentials import split_credentials
from flows.runtime.errors import one_line
from flows.runtime.process import run_streaming
from stages.command import fail
from tests.helpers.params import set_params
from tests.helpers.projects import ROOT

SECRET = "s3cret-of-a-user"


def test_user_info_moves_to_the_variables_of_each_tool() -> None:
    environment = {
        "MLFLOW_TRACKING_URI": f"https://me%40home:{SECRET}%2F%40@mlflow.example:8443/base",
        "PREFECT_API_URL": f"http://me:{SECRET}@prefect.example/api",
    }
    split_credentials(environment)
    assert environment == {
        "MLFLOW_TRACKING_URI": "https://mlflow.example:8443/base",
        "MLFLOW_TRACKING_USERNAME": "me@home",
        "MLFLOW_TRACKING_PASSWORD": f"{SECRET}/@",
        "PREFECT_API_URL": "http://prefect.example/api",
        "PREFECT_API_AUTH_STRING": f"me:{SECRET}",
    }
    before = dict(environment)
    split_credentials(environment)
    assert environment == before


@pytest.mark.parametrize("uri", ["sqlite:///a@b.db", "http://host/a@b", "postgresql://me:pw@host/db", "", "none"])
def test_other_addresses_stay_as_they_are(uri: str) -> None:
    environment = {"MLFLOW_TRACKING_URI": uri}
    split_credentials(environment)
    assert environment == {"MLFLOW_TRACKING_URI": uri}


@pytest.mark.parametrize(
    "text, shown",
    [
        (f"http://me:{SECRET}@host/path", "http://***@host/path"),
        (f"a postgresql://me:{SECRET}@x@host/db?a=b http://h/", "a postgresql://***@host/db?a=b http://h/"),
        ("https://host/a@b me@host", "https://host/a@b me@host"),
        ("http://host:5000/a@b", "http://host:5000/a@b"),
        (f"http://me:pa/{SECRET}#?@host/x", "http://***@host/x"),
        (f"http://me:5/{SECRET}@host", f"http://me:5/{SECRET}@host"),
    ],
)  # fmt: skip
def test_redaction_hides_user_info_only(text: str, shown: str) -> None:
    assert redact(text) == shown


@pytest.mark.parametrize(
    "name",
    ["HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_PASSWORD",
     "PREFECT_API_KEY", "PREFECT_API_AUTH_STRING"],
)  # fmt: skip
def test_no_message_shows_a_secret_of_the_environment(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Messages of commands, of stages and of other tools, and the output of stages that goes to the log of the flow."""
    monkeypatch.setenv(name, SECRET)
    monkeypatch.setenv("ONESTEP_TOKEN_FILE", str(tmp_path))
    text = f"{tmp_path} refused {SECRET} for http://me:{SECRET}@host"
    hidden = f"{tmp_path} refused *** for http://***@host"

    def raise_error() -> int:
        raise UserError(text)

    assert run_command(raise_error) == 1
    with pytest.raises(SystemExit):
        fail("train", text)
    assert capsys.readouterr().err == f"error: {hidden}\nerror: train: {hidden}\n"
    assert one_line(ValueError(text)) == hidden
    lines: list[str] = []
    run_streaming([sys.executable, "-c", f"print({text!r})"], tmp_path, lines.append)
    assert lines == [hidden]


def test_the_password_of_a_database_is_not_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://me:{SECRET}@host/x")
    with pytest.raises(UserError) as error:
        tracking_uri(tmp_path)
    assert SECRET not in str(error.value)
    with pytest.raises(UserError) as error:
        check_reachable(f"http://me:{SECRET}@127.0.0.1:1")
    assert SECRET not in str(error.value)


def test_a_password_in_the_parameters_is_refused(tmp_path: Path) -> None:
    """Parameters are published with each run."""
    params = tmp_path / "params.yaml"
    params.write_text((ROOT / "params.yaml").read_text())
    set_params(params, {"data.url": f"https://me:{SECRET}@host/images.tar"})
    with pytest.raises(ConfigError, match=r"data\.url: a password in it would be published") as error:
        load_params(params)
    assert SECRET not in str(error.value)
