"""`make up` starts servers that answer, a second call starts nothing, and `make down` leaves no process."""

import json
import os
import shutil
import signal
import socket
import subprocess
import urllib.request
from pathlib import Path

import psutil
import pytest
from ruamel.yaml import YAML

from dmd.errors import UserError
from flows.deployments import list_deployments
from flows.serve import main as serve
from flows.services.access import make_token, read_token
from flows.services.servers import find_process, list_services, use_local_servers
from tests.helpers.projects import ROOT
from tests.helpers.servers import call, free_port

NAMES = ("prefect", "mlflow", "deployments")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A git repository with the parts of this project that the services need."""
    root = tmp_path / "project"
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in listed.stdout.split():
        if name.startswith(("flows/", "dmd/", "evaluation/", "stages/", "zoo/")) or name in ("params.yaml", "dvc.yaml"):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, root / name)
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    return root


def processes_in(project: Path) -> list[psutil.Process]:
    """Processes whose working directory is the project."""
    processes = []
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()) == project and process.status() != psutil.STATUS_ZOMBIE:
                processes.append(process)
        except (psutil.Error, OSError):
            continue
    return processes


@pytest.mark.slow
def test_up_twice_and_down(project: Path) -> None:
    ports = {"PREFECT_PORT": str(free_port()), "MLFLOW_PORT": str(free_port())}
    try:
        first = call(project, "up", **ports)
        assert first.returncode == 0, first.stdout + first.stderr
        for url in (
            f"http://127.0.0.1:{ports['PREFECT_PORT']}/api/health",
            f"http://127.0.0.1:{ports['MLFLOW_PORT']}/health",
        ):
            with urllib.request.urlopen(url, timeout=10) as answer:
                assert answer.status == 200
        token = (project / "runs/services/token").read_text().strip()
        for port in ports.values():
            assert f"http://onestep:{token}@127.0.0.1:{port}/onestep/login\n" in first.stdout
        pids = {n: json.loads((project / f"runs/services/{n}.json").read_text())["pid"] for n in NAMES}
        query = urllib.request.Request(
            f"http://127.0.0.1:{ports['PREFECT_PORT']}/api/deployments/filter",
            b"{}",
            {"Content-Type": "application/json", "Authorization": f"Bearer {token}"},
        )
        with urllib.request.urlopen(query, timeout=10) as answer:
            deployments = {d["name"]: d for d in json.load(answer)}
        assert deployments.keys() == {"workspace", "experiment", "ablation", "champion", "search"}
        assert not any(schedule["active"] for d in deployments.values() for schedule in d["schedules"])
        fields = deployments["workspace"]["parameter_openapi_schema"]["properties"]
        assert all(field.get("description") for field in fields.values()) and "overrides" in fields
        again = call(project, "up", **ports)
        assert again.returncode == 0 and again.stdout.count("already running") == 3
        assert {n: json.loads((project / f"runs/services/{n}.json").read_text())["pid"] for n in NAMES} == pids
    finally:
        ended = call(project, "down", **ports)
    assert ended.stdout.count(": ended") == 3 and not processes_in(project)
    assert call(project, "down", **ports).stdout == ""


@pytest.mark.slow
def test_servers_whose_first_process_was_killed_are_replaced_and_ended(project: Path) -> None:
    ports = {"PREFECT_PORT": str(free_port()), "MLFLOW_PORT": str(free_port())}
    try:
        assert call(project, "up", **ports).returncode == 0
        for name in NAMES:
            os.kill(json.loads((project / f"runs/services/{name}.json").read_text())["pid"], signal.SIGKILL)
        again = call(project, "up", **ports)
        assert again.returncode == 0, again.stdout + again.stderr
        for name in NAMES:
            os.kill(json.loads((project / f"runs/services/{name}.json").read_text())["pid"], signal.SIGKILL)
    finally:
        call(project, "down", **ports)
    assert not processes_in(project)


@pytest.mark.slow
def test_a_port_in_use_is_an_error_that_names_the_variable(project: Path) -> None:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        result = call(project, "up", PREFECT_PORT=str(s.getsockname()[1]))
    assert result.returncode == 1 and "is in use by another program; set PREFECT_PORT" in result.stderr
    assert not processes_in(project)


def test_a_pid_that_another_process_reuses_is_ignored(tmp_path: Path) -> None:
    """`make down` must end only the process that `make up` started, not a later process with the same pid."""
    about = {"pid": os.getpid(), "started": psutil.Process().create_time() - 1000, "url": ""}
    (tmp_path / "prefect.json").write_text(json.dumps(about))
    assert find_process(tmp_path, "prefect") is None
    (tmp_path / "prefect.json").write_text(json.dumps({**about, "started": psutil.Process().create_time()}))
    assert find_process(tmp_path, "prefect") is not None


def test_a_run_uses_the_local_servers_unless_variables_name_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "runs" / "services"
    folder.mkdir(parents=True)
    token = make_token(folder)
    me = {"pid": os.getpid(), "started": psutil.Process().create_time()}
    (folder / "prefect.json").write_text(json.dumps({**me, "url": "http://127.0.0.1:4300"}))
    (folder / "mlflow.json").write_text(json.dumps({**me, "url": "http://127.0.0.1:5100"}))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.team:5000")
    for variable in ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING", "MLFLOW_TRACKING_TOKEN"):
        monkeypatch.setenv(variable, "to be restored")
        monkeypatch.delenv(variable)
    use_local_servers(tmp_path)
    assert os.environ["PREFECT_API_URL"] == "http://127.0.0.1:4300/api"
    assert os.environ["PREFECT_API_AUTH_STRING"] == f"onestep:{token}"
    assert os.environ["MLFLOW_TRACKING_URI"] == "http://mlflow.team:5000"
    assert "MLFLOW_TRACKING_TOKEN" not in os.environ  # a token goes to its own server only


def test_the_token_is_made_once_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    token = make_token(tmp_path)
    assert len(token) >= 43 and make_token(tmp_path) == token
    assert (tmp_path / "token").stat().st_mode & 0o777 == 0o600
    with pytest.raises(UserError, match="the running servers have no token; run make down, then make up"):
        read_token(tmp_path / "elsewhere")
    (tmp_path / "token").chmod(0o640)
    with pytest.raises(UserError, match="token: other users can read the token; run make down"):
        make_token(tmp_path)


def test_an_invalid_port_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_PORT", "70000")
    with pytest.raises(UserError, match="MLFLOW_PORT: '70000' is not a port; use 1 to 65535"):
        list_services(tmp_path, "token")


def test_no_mlflow_server_is_started_beside_that_of_a_team(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.team:5000")
    assert [s.name for s in list_services(tmp_path, "token")] == ["prefect", "deployments"]
    assert list_services(tmp_path, "token")[1].env["MLFLOW_TRACKING_URI"] == "http://mlflow.team:5000"


def test_serving_needs_no_folder_and_help_starts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse() -> None:
        raise UserError("no server")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("flows.services.prefect_server.check_server", refuse)
    with pytest.raises(SystemExit) as e:
        serve(["--help"])
    assert e.value.code == 0 and "python -m flows.serve" in capsys.readouterr().out
    assert serve([]) == 1 and (tmp_path / "runs" / "prefect").is_dir()


def test_work_pools_have_the_same_deployments_as_flows_serve() -> None:
    pools = {d["name"]: d for d in YAML(typ="safe").load(ROOT / "deploy" / "prefect.yaml")["deployments"]}
    served = {f"pool-{d.name}": d for d in list_deployments()}
    assert set(pools) == set(served)
    for name, pool in pools.items():
        assert pool["entrypoint"] == served[name].entrypoint and pool["tags"] == served[name].tags
        assert pool.get("parameters", {}) == served[name].parameters
