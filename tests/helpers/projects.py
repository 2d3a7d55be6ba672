"""A copy of the project in which the whole pipeline takes a minute or two, and commands that run in it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.helpers.params import set_params

ROOT = Path(__file__).resolve().parents[2]
REDUCED = {
    "teacher.steps": 40,
    "teacher.batch_size": 32,
    "teacher.channels": [8, 16],
    "evaluator.steps": 20,
    "evaluator.batch_size": 32,
    "evaluator.classifier_steps": 20,
    "baseline.samples": 100,
    "baseline.draws": 2,
    "baseline.ddim_steps": [2, 50],
    "pairs.count": 16,
    "pairs.steps": 2,
    "method.critic_turns": 2,
    "method.regression_weight": 0.1,
    "train.generator_turns": 6,
    "train.batch_size": 16,
    "train.validate_every": 3,
    "train.validation": {"images": 16, "draws": 2, "tolerance": 1.0},
    "train.warm_start": {"turns": 4, "batch_size": 8, "lr": 1e-3, "critic_turns": 2},
    "evaluate.timing_batch": 16,
}


def copy_of_the_project(to: Path) -> Path:
    """Copy the working tree into a new git repository, with reduced numbers and without dvc.lock and reports."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file() and name != "dvc.lock" and not name.startswith("reports/"):
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, to / name)
    set_params(to / "params.yaml", REDUCED)
    subprocess.run(["git", "init", "-q"], cwd=to, check=True)
    commit(to, "project")
    return to


def commit(project: Path, message: str) -> None:
    """Commit everything in the folder. Equal contents have equal hashes, since all commits have one date."""
    dates = {f"GIT_{who}_DATE": "2026-01-01T00:00:00Z" for who in ("AUTHOR", "COMMITTER")}
    for command in (["add", "-A"], ["commit", "-qm", message]):
        words = ["git", "-c", "user.name=t", "-c", "user.email=t@t", *command]
        subprocess.run(words, cwd=project, env={**os.environ, **dates}, check=True)


def environment() -> dict[str, str]:
    """The environment of a shell with the activated venv and without settings of Prefect, MLflow or this project."""
    # Importing flows, as other tests do, sets PREFECT_* and MLFLOW_* for the folder of this clone.
    dropped = ("PREFECT_", "MLFLOW_", "PYTHONPATH", "DMD_")
    variables = {k: v for k, v in os.environ.items() if not k.startswith(dropped)}
    path = f"{Path(sys.executable).parent}{os.pathsep}{variables['PATH']}"
    identity = {f"GIT_{who}_{what}": "t@t" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    return {**variables, **identity, "PATH": path}


def run(cwd: Path, *args: str, check: bool = True, **env: str) -> subprocess.CompletedProcess[str]:
    """Run `python ARGS` in a folder. check: fail unless the exit code is 0."""
    done = subprocess.run(
        [sys.executable, *args],
        cwd=cwd,
        env={**environment(), **env},
        capture_output=True,
        text=True,
        check=False,
    )
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def versions(project: Path) -> list[int]:
    """The number of model versions, of MLflow runs, and of MLflow runs that are still RUNNING."""
    code = (
        "import mlflow; from pathlib import Path; from flows.registry.store import tracking_uri;"
        "c = mlflow.MlflowClient(tracking_uri(Path.cwd()));"
        "runs = c.search_runs([e.experiment_id for e in c.search_experiments()]);"
        "print(len(c.search_model_versions()), len(runs), sum(r.info.status == 'RUNNING' for r in runs))"
    )
    return [int(word) for word in run(project, "-c", code).stdout.split()[-3:]]
