"""An ablation of the whole pipeline with reduced settings, without a server, survives a kill."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest

from flows.registry.store import tracking_uri
from tests.helpers.ablations import check_runs
from tests.helpers.faults.at_work import at_work
from tests.helpers.projects import copy_of_the_project, environment, run
from tests.helpers.servers import eventually

ABLATION = """
description: Critic turns
seeds: [0, 1]
at_once: 2
grid: {method.critic_turns: [1, 2, 3]}
"""


@pytest.mark.slow
@pytest.mark.long
def test_the_same_command_finishes_a_killed_ablation(tmp_path: Path) -> None:
    project = copy_of_the_project(tmp_path / "project")
    (project / "experiments" / "ablations" / "k.yaml").write_text(ABLATION)
    argv = [sys.executable, "-m", "flows.ablate", "experiments/ablations/k.yaml"]
    process = subprocess.Popen(
        argv, cwd=project, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    first: list[str] = []
    for line in process.stderr:
        first.append(line)
        if sum("FD ratio" in text for text in first) == 3:  # three of six members; at least one more is running
            process.send_signal(signal.SIGKILL)
            break
    first += process.communicate()[1].splitlines()
    assert process.returncode == -signal.SIGKILL, "".join(first)
    assert eventually(lambda: not at_work(project), patience=60), at_work(project)

    again = run(project, "-m", "flows.ablate", "experiments/ablations/k.yaml")
    assert again.stderr.count("already there: k-") == 3
    assert "\nMean ± standard deviation over seeds. Data: digits. Method: dmd. Commit " in again.stdout
    log = "".join(first) + again.stderr
    for stage in ("teacher", "evaluator", "baseline", "pairs"):
        assert log.count(f"Running stage '{stage}'") == 1, stage
    listed = run(project, "-m", "dvc", "exp", "show", "--json").stdout
    (commit,) = [entry for entry in json.loads(listed) if entry["rev"] != "workspace"]
    assert len([e for e in commit["experiments"] if e["name"].startswith("k-")]) == 6
    check_runs(project, 6, "ratio.fd.classifier")
    rows = json.loads((project / "reports/ablations/k.json").read_text())["rows"]
    assert [row["seeds"] for row in rows] == [[0, 1]] * 3 and all("generator_x_std" in row for row in rows)
    page = (project / "reports/ablations/k.html").read_text()
    assert page.count("<img") == 3 and page.count("<svg") == 4
    client = mlflow.MlflowClient(tracking_uri(project))
    (experiment,) = [e.experiment_id for e in client.search_experiments() if e.name == "onestep"]
    assert all("train/generator_x_mean" in r.data.metrics for r in client.search_runs([experiment]) if r.data.params)
    assert eventually(lambda: not at_work(project), patience=60)
