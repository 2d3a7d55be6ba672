"""Before its first stage, a run checks all that its end needs; each mistake is one line with the remedy."""

import socket
import ssl
import time
from dataclasses import replace
from pathlib import Path
from urllib.error import URLError

import pytest

from dmd.config import Params
from dmd.errors import ConfigError, UserError
from flows.preflight import checks, migration
from flows.preflight.checks import check_before
from flows.preflight.places import check_places, list_places
from flows.preflight.run import Mistakes, Run
from flows.registry.store import check_reachable
from flows.runtime import reach
from flows.runtime.reach import find_silence
from tests.helpers.faults.inputs import foreign_database
from tests.helpers.params import with_values
from tests.helpers.servers import free_port


def test_every_mistake_is_listed_and_those_that_take_no_time_come_first(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_run: Run) -> list[str]:
        raise UserError("two\nthree")

    monkeypatch.setattr(checks, "check_result", pytest.fail)
    of_critic = with_values(run.params[0], method={"name": "gdd"})  # its trunks are those of a critic, which it lacks
    wrong = replace(run, params=[*run.params, of_critic, of_critic], stages=frozenset({"train"}))
    with pytest.raises(ConfigError, match=r"^method\.gan\.trunks: gdd has no critic, so critic cannot "):
        check_before(wrong)
    monkeypatch.setattr(checks, "CHECKS", (lambda _run: ["one"], refuse, lambda _run: []))
    monkeypatch.setattr(checks, "begin_checks", pytest.fail)
    with pytest.raises(UserError, match=r"^one\ntwo\nthree$") as caught:
        check_before(wrong)
    assert not isinstance(caught.value, ConfigError)


@pytest.mark.parametrize("variable", ["MLFLOW_TRACKING_URI", "PREFECT_API_URL"])
def test_a_server_of_the_environment_is_asked_before_the_checks_that_take_seconds(
    run: Run, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, f"http://127.0.0.1:{free_port()}/api")
    monkeypatch.setattr(checks, "begin_checks", pytest.fail)
    with pytest.raises(UserError, match=rf"server http.* can't be reached .* unset {variable}"):
        check_before(run)


def test_a_locale_that_is_not_utf_8_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not list(checks.check_encoding(run))
    monkeypatch.setattr("flows.preflight.checks.locale.getencoding", lambda: "ISO-8859-1")
    (line,) = checks.check_encoding(run)
    assert line == "the locale's encoding is ISO-8859-1; export PYTHONUTF8=1 and run again"


def test_a_tracker_without_its_package_is_named(run: Run, params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not list(checks.check_trackers(run))
    tracked = replace(run, params=[with_values(params, register_={"trackers": ["tensorboard", "wandb"]})])
    monkeypatch.setattr("flows.preflight.checks.importlib.util.find_spec", lambda name: name == "wandb" or None)
    (line,) = checks.check_trackers(tracked)
    assert line.startswith("register.trackers: tensorboard is not installed; pip install '.[tensorboard]'")


def test_a_socks_proxy_without_its_package_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("all_proxy", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert not list(checks.check_proxy(run))
    monkeypatch.setenv("all_proxy", "socks5h://user:word@127.0.0.1:9")
    monkeypatch.setattr("flows.preflight.checks.importlib.util.find_spec", lambda _name: None)
    (line,) = checks.check_proxy(run)
    assert line.endswith("is a SOCKS proxy; pip install 'httpx[socks]', or unset ALL_PROXY") and "word" not in line


def test_each_folder_that_the_run_writes_must_be_writable(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not list(check_places(run)) and not list(check_places(replace(run, in_place=False)))
    names = {folder.relative_to(run.root).as_posix() for folder, *_ in list_places(run) if run.root in folder.parents}
    assert names == {"runs", ".dvc/cache", ".dvc/tmp", "artifacts", "reports", "runs/mlflow"}
    (run.root / "artifacts").write_text("")
    monkeypatch.setenv("DMD_SCRATCH", "/proc/scratch")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////proc/mlflow.db")
    lines = list(check_places(run))
    assert [line.partition(": ")[0] for line in lines] == ["/proc/scratch", str(run.root / "artifacts"), "/proc"]
    assert "or set DMD_SCRATCH to a folder that is" in lines[0] and "or set MLFLOW_TRACKING_URI" in lines[2]
    assert lines[1].endswith("is not a folder); make it writable, or run in a copy of the project that is")


@pytest.mark.parametrize("scheme", ["http", "postgresql", "mysql+pymysql"])
def test_a_server_that_is_not_there_is_named_at_once(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"{scheme}://127.0.0.1:{free_port()}/x"
    start = time.monotonic()
    with pytest.raises(
        UserError, match=r"^the MLflow server .*\(.*refused.*\): start it, or unset MLFLOW_TRACKING_URI$"
    ):
        check_reachable(address)
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", address)
    with pytest.raises(UserError, match=r"unset MLFLOW_REGISTRY_URI$"):
        check_reachable("sqlite:///x.db")
    assert time.monotonic() - start < 5


def test_a_server_that_says_nothing_is_named_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    assert reach.TIMEOUT <= 10, "seconds"
    monkeypatch.setattr("flows.runtime.reach.TIMEOUT", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        assert find_silence(f"http://127.0.0.1:{silent.getsockname()[1]}", "/health") in ("timed out", "no answer")
        assert find_silence(f"postgresql://127.0.0.1:{silent.getsockname()[1]}/db") is None
    assert find_silence("sqlite:////tmp/x.db") is None and find_silence("databricks") is None


def test_a_server_with_a_certificate_of_its_own_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clients trust it by REQUESTS_CA_BUNDLE, MLFLOW_TRACKING_SERVER_CERT_PATH or PREFECT_API_SSL_CERT_FILE."""

    def distrust(*_args: object, **_more: object) -> None:
        raise URLError(ssl.SSLCertVerificationError(1, "self-signed certificate in certificate chain"))

    monkeypatch.setattr("urllib.request.urlopen", distrust)
    assert find_silence("https://mlflow.example", "/health") is None


def test_a_database_that_mlflow_cannot_use_is_found_beside_the_other_checks(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow says so after seconds, in which the checks of networks run."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", foreign_database("sqlite", "runs")(tmp_path))
    begun = list[Path]()

    def fail(file: Path, _tool: object) -> None:
        begun.append(file)
        raise UserError(f"MLflow cannot use the database {file}")

    monkeypatch.setattr(migration, "prepare_database", fail)
    monkeypatch.setattr(checks, "finish_checks", pytest.fail)
    monkeypatch.setattr(checks, "begin_checks", lambda _run: None)
    monkeypatch.setattr(checks, "check_result", pytest.fail)
    with pytest.raises(UserError, match=r"^MLflow cannot use the database .*other\.db$"):
        check_before(run)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/new.db")
    monkeypatch.setattr(checks, "finish_checks", lambda _run: Mistakes([], False))
    monkeypatch.setattr(checks, "check_result", lambda _run: None)
    check_before(run)
    assert len(begun) == 1  # a new database is made only after the checks
