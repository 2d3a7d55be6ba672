"""The team server of deploy/ without docker: two workers run the reduced pipeline on Postgres and an S3 store."""

import json
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from dmd.storage.files import sha256
from tests.helpers.projects import copy_of_the_project, environment, run
from tests.helpers.servers import eventually
from tests.helpers.team.server import Team, program, start, status, team_server

pytestmark = [pytest.mark.slow, pytest.mark.long]

WORKERS = ("first", "second")
PATIENCE = 1500  # seconds in which two reduced pipelines end on one busy core
# What both runs share has a result already when they start: each trains a generator of its own.
OVERRIDES = {"train.generator_turns": 4, "train.validate_every": 2}


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    """The running servers."""
    with team_server(tmp_path_factory.mktemp("team")) as server:
        yield server


@pytest.fixture(scope="module")
def project(team: Team, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of a member of the team, with the remote of DVC that docs/team_server.md describes."""
    folder = copy_of_the_project(tmp_path_factory.mktemp("clone") / "project")
    _add_remote(folder, team)
    return folder


@pytest.fixture(scope="module")
def runs(team: Team, project: Path) -> list[dict[str, Any]]:
    """Two flow runs that two workers have made at the same time, as the API describes them."""
    env = _client(team, project)
    for words in (
        ("prefect", "work-pool", "create", "local", "--type", "process"),
        ("prefect", "deploy", "--all", "--prefect-file", "deploy/prefect.yaml"),
    ):
        done = subprocess.run(
            [program(words[0]), *words[1:]],
            cwd=project,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    ids = {d["name"]: d["id"] for d in _ask(team, "deployments/filter")}
    for seed in (0, 1):
        values = {"preset": None, "overrides": OVERRIDES, "seeds": [seed]}
        _ask(team, f"deployments/{ids['pool-experiment']}/create_flow_run", parameters=values)
    with ExitStack() as stack:
        workers = {}
        for name in WORKERS:
            words = ("worker", "start", "--pool", "local", "--name", name, "--limit", "1")
            log = team.logs / f"worker-{name}.log"
            workers[log] = start(stack, [program("prefect"), *words], log, project, env)

        def is_over() -> bool:
            states = {r["state_type"] for r in _ask(team, "flow_runs/filter")}
            alive = [log for log, process in workers.items() if process.poll() is None]
            return states <= {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"} or len(alive) < len(WORKERS)

        assert eventually(is_over, PATIENCE), [log.read_text(errors="replace")[-3000:] for log in workers]
    return _ask(team, "flow_runs/filter")


def test_the_servers_refuse_a_request_without_the_token(team: Team) -> None:
    pages = (f"{team.prefect}/admin/version", f"{team.mlflow}/api/2.0/mlflow/experiments/search?max_results=3")
    assert [status(page) for page in pages] == [401, 401]
    assert [status(page, "x" * len(team.token)) for page in pages] == [401, 401]
    assert [status(page, team.token) for page in pages] == [200, 200]


def test_two_workers_run_two_pipelines_at_the_same_time(team: Team, runs: list[dict[str, Any]]) -> None:
    logs = [(team.logs / f"worker-{name}.log").read_text(errors="replace") for name in WORKERS]
    assert [r["state_type"] for r in runs] == ["COMPLETED"] * 2, [r["state"]["message"] for r in runs] + logs
    assert max(r["start_time"] for r in runs) < min(r["end_time"] for r in runs)
    owners = [[_has_run(log, r["id"]) for r in runs] for log in logs]
    assert sorted(map(sum, owners)) == [1, 1] and owners[0] != owners[1], owners


def test_both_generators_are_registered_and_their_files_are_in_the_store(
    team: Team, project: Path, runs: list[dict[str, Any]], tmp_path: Path
) -> None:
    """A client that has only the address and the token of MLflow downloads a version and makes a picture."""
    code = (
        "import json, mlflow; c = mlflow.MlflowClient();"
        "print(json.dumps([[v.name, v.version, v.run_id, c.get_run(v.run_id).info.status,"
        "c.get_run(v.run_id).data.params['train.seed']] for v in c.search_model_versions()]))"
    )
    known = {name: value for name, value in team.clients.items() if name.startswith("MLFLOW_")}
    versions = json.loads(run(tmp_path, "-c", code, **known).stdout.splitlines()[-1])
    assert sorted(v[1] for v in versions) == ["1", "2"] or sorted(v[1] for v in versions) == [1, 2], versions
    assert {v[3] for v in versions} == {"FINISHED"} and sorted(v[4] for v in versions) == ["0", "1"]
    stored = team.objects("mlflow")
    assert sum(key.endswith("generator.json") for key in stored) >= 2, stored
    name, number = versions[0][:2]
    fetch = ("-m", "mlflow", "artifacts", "download", "-u", f"models:/{name}/{number}", "-d", "model")
    run(tmp_path, *fetch, **known)
    (about,) = (tmp_path / "model").rglob("generator.json")
    run(project, "-m", "dmd.sample", "--generator", str(about.parent), "--out", str(tmp_path / "grid.png"))
    assert (tmp_path / "grid.png").stat().st_size > 500


def test_another_clone_fetches_a_result_by_the_store(
    team: Team, project: Path, runs: list[dict[str, Any]], tmp_path: Path
) -> None:
    env = _client(team, project)
    names = run(project, "-m", "dvc", "exp", "list", "--name-only", **env).stdout.split()
    assert len(names) == 2, names
    run(project, "-m", "dvc", "exp", "apply", names[0], **env)
    run(project, "-m", "dvc", "push", **env)
    assert team.objects("dvc")
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", str(project), str(clone)], check=True)
    shutil.copy(project / "dvc.lock", clone / "dvc.lock")
    shutil.copy(project / "params.yaml", clone / "params.yaml")
    _add_remote(clone, team)
    run(clone, "-m", "dvc", "pull", "artifacts/generator", **env)
    assert sha256(clone / "artifacts/generator") == sha256(project / "artifacts/generator")


def _has_run(log: str, flow_run: str) -> bool:
    """Whether a worker has run it; a worker that comes second is refused by the server."""
    taken = f"submitting flow run '{flow_run}'" in log
    return taken and f"Aborted submission of flow run '{flow_run}'" not in log


def _client(team: Team, project: Path) -> dict[str, str]:
    """The environment of a client, as docs/team_server.md sets it."""
    home = {"HOME": str(team.logs), "PREFECT_HOME": str(team.logs / "client")}
    return {**environment(), **home, **team.clients, "ONESTEP_ROOT": str(project)}


def _add_remote(project: Path, team: Team) -> None:
    run(project, "-m", "dvc", "remote", "add", "--local", "-d", "store", "s3://dvc")
    run(project, "-m", "dvc", "remote", "modify", "--local", "store", "endpointurl", team.store)


def _ask(team: Team, what: str, **query: Any) -> Any:
    """Post a query to Prefect's server and return its answer."""
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {team.token}"}
    with urllib.request.urlopen(
        urllib.request.Request(f"{team.prefect}/{what}", json.dumps(query).encode(), headers), timeout=60
    ) as answer:
        return json.load(answer)
