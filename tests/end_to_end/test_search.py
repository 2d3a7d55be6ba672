"""A search over the whole pipeline with reduced settings, without a server, survives a kill."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest

from flows.registry.store import tracking_uri
from tests.helpers.faults.at_work import at_work
from tests.helpers.projects import copy_of_the_project, environment, run
from tests.helpers.servers import eventually

SEARCH = """
description: Learning rate and critic turns
trials: 12
turns: [2, 4]
at_once: 2
space:
  train.lr_generator: {log: [1.0e-4, 1.0e-2]}
  method.critic_turns: [1, 2]
"""


@pytest.mark.slow
@pytest.mark.long
def test_the_same_command_finishes_a_killed_search(tmp_path: Path) -> None:
    """No trial is lost or repeated, and each is an experiment and an MLflow run."""
    project = copy_of_the_project(tmp_path / "project")
    (project / "experiments" / "searches").mkdir(exist_ok=True)
    (project / "experiments" / "searches" / "k.yaml").write_text(SEARCH)
    argv = [sys.executable, "-m", "flows.search", "experiments/searches/k.yaml"]
    process = subprocess.Popen(
        argv, cwd=project, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    first: list[str] = []
    for line in process.stderr:
        first.append(line)
        if sum(": score " in text for text in first) == 4:  # at least one more trial is running
            process.send_signal(signal.SIGKILL)
            break
    first += process.communicate()[1].splitlines()
    assert process.returncode == -signal.SIGKILL, "".join(first)
    assert eventually(lambda: not at_work(project), patience=60), at_work(project)

    again = run(project, "-m", "flows.search", "experiments/searches/k.yaml")
    assert "experiment k-trial" in again.stdout and "critic turns. Score: the lowest validation score" in again.stdout
    log = "".join(first) + again.stderr
    for stage in ("teacher", "evaluator", "pairs"):
        assert log.count(f"Running stage '{stage}'") == 1, stage
    result = json.loads((project / "reports/searches/k.json").read_text())
    assert [t["trial"] for t in result["trials"]] == list(range(12))
    assert {t["outcome"] for t in result["trials"]} == {"finished", "ended early"}
    listed = json.loads(run(project, "-m", "dvc", "exp", "show", "--json").stdout)
    (commit,) = [entry for entry in listed if entry["rev"] != "workspace"]
    names = {e["name"] for e in commit["experiments"]}
    assert {t["experiment"] for t in result["trials"]} <= names
    client = mlflow.MlflowClient(tracking_uri(project))
    (experiment,) = [e.experiment_id for e in client.search_experiments() if e.name == "onestep"]
    runs = [r for r in client.search_runs([experiment], max_results=100) if r.data.params]
    assert len(runs) == 12 and {r.info.status for r in runs} == {"FINISHED"}
    page = (project / "reports/searches/k.html").read_text()
    assert page.count("<svg") == 3 and "Importance" in page
    assert eventually(lambda: not at_work(project), patience=60)


@pytest.mark.slow
@pytest.mark.long
def test_a_dry_run_says_what_the_trials_cost(tmp_path: Path) -> None:
    project = copy_of_the_project(tmp_path / "project")
    done = run(project, "-m", "flows.search", "experiments/searches/digits.yaml", "--dry-run")
    assert "12 trials, 2 at once" in done.stdout and "train.lr_generator: 3e-05 to 0.003, log" in done.stdout
    assert "cost:" in done.stdout
    assert not (project / "runs" / "searches").exists()


@pytest.mark.slow
@pytest.mark.long
def test_a_dry_run_lists_the_members_and_their_cost(tmp_path: Path) -> None:
    project = copy_of_the_project(tmp_path / "project")
    done = run(project, "-m", "flows.ablate", "experiments/ablations/eps.yaml", "--dry-run")
    assert "2 members, 2 at once; 0 have a result already" in done.stdout
    assert done.stdout.count("cost:") == 2 and "eps-t259-seed0-" in done.stdout and "eps-t333-seed0-" in done.stdout
