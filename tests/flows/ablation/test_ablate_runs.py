"""An ablation of a small project is a Prefect flow and MLflow runs, also after a kill."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from evaluation.metrics.schema import write_model
from evaluation.sources import mlflow_database
from tests.helpers.ablations import check_runs, mlflow_runs, other_states
from tests.helpers.faults.at_work import at_work
from tests.helpers.projects import ROOT
from tests.helpers.registry.stores import copy_store
from tests.helpers.reports import generator_measures, run_metrics
from tests.helpers.servers import Server, eventually, task_states

pytestmark = pytest.mark.slow

DVC_YAML = """
stages:
  shared:
    cmd: python work.py shared out.txt
    deps: [work.py]
    params: [data]
    outs: [out.txt]
  train:
    cmd: python work.py train reports/metrics.json
    deps: [work.py, out.txt]
    params: [train, method]
    metrics: [reports/metrics.json: {cache: false}]
"""
# Each execution of a stage appends a line to a log outside the project, since experiments run in copies of it.
WORK = """
import json, os, sys, time
from pathlib import Path
from ruamel.yaml import YAML
params = YAML(typ="safe").load(Path("params.yaml"))
log = Path(os.environ["ABLATE_LOG"])
with log.open("a") as f:
    f.write(sys.argv[1] + "\\n")
time.sleep(float(os.environ.get("ABLATE_SLEEP", "0")))
if sys.argv[1] == "train":
    k = params["method"]["critic_turns"]
    if k == 7:
        sys.exit("error: train: seven is not available")
    out = json.loads(Path("metrics.json").read_text())
    out["ratio"]["fd"]["a"] = float(k + params["train"]["seed"])
else:
    out = {}
Path(sys.argv[2]).parent.mkdir(exist_ok=True)
Path(sys.argv[2]).write_text(json.dumps(out))
"""


@pytest.fixture
def project(tmp_path: Path, empty_store: Path) -> Path:
    """A git and DVC project of two quick stages with this project's params.yaml."""
    root = tmp_path / "project"
    (root / "experiments" / "ablations").mkdir(parents=True)
    shutil.copy(ROOT / "params.yaml", root / "params.yaml")
    (root / "dvc.yaml").write_text(DVC_YAML)
    (root / "work.py").write_text(WORK)
    write_model(run_metrics(generator_measures({"a": 1.0}), {"a": 1.0}), root / "metrics.json")
    rows = "".join(f"  - {{name: k{k}, changes: {{method.critic_turns: {k}}}}}\n" for k in (1, 2, 7))
    (root / "experiments" / "ablations" / "k.yaml").write_text(
        f"description: turns\nseeds: [0, 1]\nat_once: 2\nrows:\n{rows}"
    )
    (root / ".gitignore").write_text("runs/\n")
    for command in (["git", "init", "-q"], ["dvc", "init", "-q"], ["git", "add", "-A"], ["git", "commit", "-qm", "p"]):
        subprocess.run(command, cwd=root, check=True, env=environment(tmp_path))
    copy_store(empty_store, mlflow_database(root))
    return root


def environment(tmp_path: Path) -> dict[str, str]:
    identity = {f"GIT_{who}_{what}": "t@t" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, **identity, "PATH": path, "ABLATE_LOG": str(tmp_path / "log"), "PYTHONPATH": str(ROOT)}


class Run:
    """A process of `python -m flows.ablate` in the project, with the server of this module."""

    def __init__(self, server: Server, project: Path, sleep: float = 0) -> None:
        env = {**server.env, **environment(project.parent), "ABLATE_SLEEP": str(sleep)}
        command = [sys.executable, "-m", "flows.ablate", "experiments/ablations/k.yaml"]
        self.process = subprocess.Popen(
            command, cwd=project, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def end(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=300)
        assert "Traceback" not in out + err, err
        return self.process.returncode, out, err

    def signal_after(self, words: str, number: signal.Signals) -> None:
        assert self.process.stderr is not None
        assert any(words in line for line in self.process.stderr)
        self.process.send_signal(number)
        self.process.communicate(timeout=120)


def experiments(project: Path) -> list[str]:
    command = [sys.executable, "-m", "dvc", "exp", "list", "--name-only"]
    env = environment(project.parent)
    listed = subprocess.run(command, cwd=project, env=env, capture_output=True, text=True, check=True).stdout
    return sorted(name for name in listed.split() if name.startswith("k-"))


def last_states(server: Server) -> tuple[dict[str, Any], dict[str, str]]:
    """The latest flow run and the states of its tasks."""
    run = server.ask("flow_runs", flows={"name": {"any_": ["ablate"]}}, sort="START_TIME_DESC", limit=1)[0]
    eventually(lambda: task_states(server, run["id"]).get("comparison") == "Published", patience=20)
    return run, task_states(server, run["id"])


def test_members_are_tasks_and_experiments_and_runs_and_are_not_repeated(server: Server, project: Path) -> None:
    code, out, err = Run(server, project).end()
    assert code == 1, out + err  # one row fails, the other rows run, and the table shows both
    assert err.count("error: k7 seed 0: train: seven is not available\n") == 1
    assert "| k7 | 0 (missing: 0, 1) | failed |" in out
    rows = {row["name"]: row for row in json.loads((project / "reports/ablations/k.json").read_text())["rows"]}
    assert rows["k1"]["fd_ratio"] == {"mean": 1.5, "std": pytest.approx(0.5**0.5)} and rows["k2"]["seeds"] == [0, 1]
    assert rows["k7"]["failed"] == [0, 1]
    log = project.parent / "log"
    assert log.read_text().split().count("shared") == 1
    check_runs(project, 4)
    assert other_states(project) == ["FAILED"] * 2
    assert len(experiments(project)) == 4
    run, states = last_states(server)
    done = {f"{row} seed {seed}": "Ran" for row in ("k1", "k2") for seed in (0, 1)}
    failed = {"k7 seed 0": "Failed", "k7 seed 1": "Failed"}
    assert states == {**done, **failed, "comparison": "Published"}
    assert (
        run["name"] == "k"
        and run["state_name"] == "Incomplete"
        and "k7 seed 1: train: seven is not available" in run["state"]["message"]
    )
    artifacts = {a["key"]: a for a in server.ask("artifacts")}
    assert "| k1 | 2 | 1.500 ± 0.707 |" in artifacts["ablation-k"]["data"]
    assert (project / "reports/ablations/k.html").as_uri() in artifacts["ablation-k-page"]["data"]
    page = (project / "reports/ablations/k.html").read_text()
    assert "seven is not available" in page and "By method.critic_turns" in page

    log.write_text("")
    before = (project / "reports/ablations/k.json").read_bytes()
    code, out, err = Run(server, project).end()
    assert err.count("already there: k-") == 4 and log.read_text().split() == ["train", "train"]
    assert (project / "reports/ablations/k.json").read_bytes() == before
    check_runs(project, 4)
    assert other_states(project) == ["FAILED"] * 2  # the second attempt continues the run of the first one
    assert last_states(server)[1] == {**dict.fromkeys(done, "Already there"), **failed, "comparison": "Published"}
    (project / "work.py").write_text(WORK + "\n# changed\n")
    code, out, err = Run(server, project).end()
    assert code == 1 and "work.py has uncommitted changes, and experiments start from the last commit" in err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_ablation_resumes(server: Server, project: Path, number: signal.Signals) -> None:
    Run(server, project, sleep=4).signal_after("FD ratio", number)
    assert eventually(lambda: not at_work(project), patience=45), at_work(project)
    before = experiments(project)
    assert before and len(mlflow_runs(project)[1]) == 1  # a member is published at once
    # The run of a member that was at work, if the signal came after its start: nothing is left to end it after SIGKILL.
    assert set(other_states(project)) <= {"KILLED" if number == signal.SIGTERM else "RUNNING"}
    _, _, err = Run(server, project).end()
    assert err.count("already there: k-") == len(before)
    check_runs(project, 4)
    assert other_states(project) == ["FAILED"] * 2  # of the row that fails
    rows = json.loads((project / "reports/ablations/k.json").read_text())["rows"]
    assert [row["seeds"] for row in rows] == [[0, 1], [0, 1], []]
    assert len(experiments(project)) == 4 and set(before) < set(experiments(project))
