"""The whole pipeline with reduced settings, by its commands: flow, second run, experiments, second clone, registry."""

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from dmd.storage.files import sha256
from evaluation.metrics.files import MOST_FIGURES, count_figures
from tests.helpers.params import set_params
from tests.helpers.projects import copy_of_the_project, run, versions

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project in which the flow has run once."""
    folder = copy_of_the_project(tmp_path_factory.mktemp("first") / "project")
    (folder / "first_run.txt").write_text(run(folder, "-m", "flows.distill").stdout)
    (folder / ".git/info/exclude").write_text("first_run.txt\n")
    return folder


def test_the_flow_ends_with_a_table_and_a_version(project: Path) -> None:
    output = (project / "first_run.txt").read_text()
    words = ("student", "DDIM 2", "DDIM 50", "CLIP", "precision", "recall", "reports/index.html", "digits-one-step")
    assert [word for word in words if word not in output] == [], output
    metrics = json.loads((project / "reports/metrics.json").read_text())
    assert metrics["training"]["turns"] > 0 and count_figures(metrics) <= MOST_FIGURES
    assert metrics["student"]["nfe"] == 1 and set(metrics["teachers"]) == {"ddim_2", "ddim_50"}
    assert set(metrics["ratio"]["fd"]) == {"evaluator", "classifier"}
    assert versions(project) == [1, 1, 0]
    status = run(project, "-m", "dvc", "status")
    assert "up to date" in status.stdout


def test_a_second_run_changes_nothing(project: Path) -> None:
    again = run(project, "-m", "flows.distill")
    assert "Nothing changed" in again.stdout
    assert versions(project) == [1, 1, 0]


def test_the_measures_of_a_teacher_are_reused_from_an_earlier_run(project: Path, tmp_path: Path) -> None:
    """If all settings are equal, the teacher generates images only for the pictures, and every measure is equal."""
    earlier = tmp_path / "baseline.json"
    shutil.copy(project / "artifacts/baseline/baseline.json", earlier)
    other = Path(shutil.copy(project / "params.yaml", tmp_path))
    set_params(other, {"baseline.measured": str(earlier)})
    inputs = [f"--{name}={project / 'artifacts' / name}" for name in ("data", "teacher", "encoded", "evaluator")]
    command = ("-m", "stages.baseline", *inputs, f"--params={other}", "--out")
    done = run(project, *command, str(tmp_path / "same"), DMD_SCRATCH=str(tmp_path / "scratch"))
    assert f"reused from {earlier}: ddim_2, ddim_50" in done.stderr and "ddim_50: " not in done.stderr
    before, after = (json.loads(p.read_text()) for p in (earlier, tmp_path / "same/baseline.json"))
    assert before.pop("taken_over") == [] and after.pop("taken_over") == ["ddim_2", "ddim_50"] and before == after
    set_params(other, {"baseline.neighbours": 4})
    done = run(project, *command, str(tmp_path / "other"), DMD_SCRATCH=str(tmp_path / "scratch"))
    assert "has other settings (neighbours): the teacher is evaluated again" in done.stderr
    assert json.loads((tmp_path / "other/baseline.json").read_text())["taken_over"] == []


def test_a_registered_version_is_reproduced_to_the_byte_in_a_fresh_clone(project: Path, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", str(project), str(clone)], check=True)
    store = {"MLFLOW_TRACKING_URI": f"sqlite:///{project / 'runs/mlflow/mlflow.db'}"}
    done = run(clone, "-m", "flows.reproduce", "models:/digits-one-step@champion", check=False, **store)
    if done.returncode:  # after so little training, the gate may refuse the version
        assert "error: " in done.stderr and "champion" in done.stderr
        done = run(clone, "-m", "flows.reproduce", "models:/digits-one-step/1", **store)
    assert "identical byte for byte" in done.stdout and "Running stage 'train'" in done.stderr
    worktrees = subprocess.run(
        ["git", "worktree", "list"], cwd=clone, capture_output=True, text=True, check=True
    ).stdout
    assert worktrees.count("\n") == 1 and not (clone / "artifacts/generator").exists()
    wrong = run(clone, "-m", "flows.reproduce", "models:/digits-one-step/9", check=False, **store)
    assert wrong.returncode == 1 and wrong.stderr.count("error: ") == 1


def test_the_watch_reproduces_the_recorded_figures(project: Path) -> None:
    run(project, "-m", "flows.register", "--promote", "1")
    done = run(project, "-m", "flows.watch", "--seed", "7", check=False)
    (file,) = (project / "runs/watch").glob("*.json")
    record = json.loads(file.read_text())
    assert record["model"] == "models:/digits-one-step/1" and record["changed"] == [] and record["packages"] == []
    assert record["fresh"] != record["recorded"] and done.returncode == (0 if record["steady"] else 1)


def test_two_simultaneous_runs_with_changes_are_two_experiments(project: Path) -> None:
    before = (project / "params.yaml").read_bytes()
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_", "PYTHONPATH", "DMD_"))}
    command = [sys.executable, "-m", "flows.distill", "--set", "train.generator_turns=3", "--seeds"]
    both = [subprocess.Popen([*command, seed], cwd=project, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            for seed in ("1", "2")]  # fmt: skip
    for process in both:
        output = process.communicate(timeout=900)[0].decode()
        assert process.returncode == 0, output
        assert "dvc exp apply run-seed" in output
    listed = run(project, "-m", "dvc", "exp", "list", "--name-only").stdout.split()
    assert {name.rsplit("-", 1)[0] for name in listed} >= {"run-seed1", "run-seed2"}
    assert (project / "params.yaml").read_bytes() == before and versions(project)[0] == 3
    assert "up to date" in run(project, "-m", "dvc", "status").stdout


def test_importing_every_module_makes_no_stage_stale(project: Path) -> None:
    """The page of the playground needs an extra."""
    left_out = {"flows.registry.pyfunc_generator"} | (set() if find_spec("gradio") else {"flows.playing.page"})
    modules = [
        ".".join(p.relative_to(project).with_suffix("").parts)
        for d in ("dmd", "evaluation", "flows")
        for p in (project / d).rglob("*.py")
    ]
    run(
        project,
        "-c",
        "import importlib\n" + "\n".join(f"importlib.import_module({m!r})" for m in modules if m not in left_out),
    )
    assert "up to date" in run(project, "-m", "dvc", "status").stdout


def test_another_clone_gives_the_same_bytes(project: Path, tmp_path: Path) -> None:
    """The other clone runs plain `dvc repro` at another path, without Prefect and MLflow."""
    other = copy_of_the_project(tmp_path / "a/much/deeper/path")
    run(other, "-m", "dvc", "repro")
    for name in ("data", "teacher", "evaluator", "pairs", "generator"):
        assert sha256(other / "artifacts" / name) == sha256(project / "artifacts" / name), name
    assert (other / "reports/metrics.json").read_bytes() == (project / "reports/metrics.json").read_bytes()
    assert "up to date" in run(other, "-m", "dvc", "status").stdout
    # Without dvc.lock every stage is restored from the run cache.
    (other / "dvc.lock").unlink()
    shutil.rmtree(other / "artifacts")
    again = run(other, "-m", "dvc", "repro").stdout
    stages = YAML(typ="safe").load((other / "dvc.yaml").read_text())["stages"]
    assert "Running stage" not in again and again.count("is cached - skipping run") == len(stages)
    assert (other / "reports/metrics.json").read_bytes() == (project / "reports/metrics.json").read_bytes()


def test_an_experiment_runs_only_what_depends_on_its_change(project: Path) -> None:
    subprocess.run(
        ["git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qam", "run"], cwd=project, check=False
    )
    subprocess.run(["git", "add", "-A"], cwd=project, check=True)
    subprocess.run(
        ["git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "lock"], cwd=project, check=False
    )
    done = run(project, "-m", "dvc", "exp", "run", "-S", "method.critic_turns=3")
    stages = [line.split("'")[1] for line in done.stdout.splitlines() if line.startswith("Running stage")]
    assert stages == ["train", "evaluate"]
    assert "critic_turns" in run(project, "-m", "dvc", "params", "diff").stdout
    words = ("-m", "dvc", "metrics", "diff", "--targets", "reports/metrics.json")
    assert "student.fd.classifier" in run(project, *words).stdout


def test_the_registered_model_predicts_in_a_new_process(project: Path) -> None:
    code = (
        "import mlflow, base64, json; from pathlib import Path; from flows.registry.store import tracking_uri;"
        "mlflow.set_tracking_uri(tracking_uri(Path.cwd())); import pandas as pd;"
        "m = mlflow.pyfunc.load_model('models:/digits-one-step@candidate');"
        "out = m.predict(pd.DataFrame({'label': [3, 7]}), params={'seed': 5, 'images': 2});"
        "print(json.dumps([base64.b64decode(p)[:4].hex() for p in out['png']]))"
    )
    answer = json.loads(run(project, "-c", code, MLFLOW_ALLOW_PICKLE_DESERIALIZATION="false").stdout.splitlines()[-1])
    assert answer == ["89504e47"] * 4
    stored = [p for p in (project / "runs/mlflow").rglob("*") if p.suffix in (".pkl", ".pt", ".pth", ".bin", ".joblib")]
    assert stored == []


def test_a_wrong_parameter_ends_the_flow_with_one_line_and_leaves_no_run(project: Path) -> None:
    params = (project / "params.yaml").read_text()
    before = versions(project)
    try:
        set_params(project / "params.yaml", {"method.generator_timestep": 998, "method.t_mni": 0.1})
        done = run(project, "-m", "flows.distill", check=False)
        errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert done.returncode == 2 and len(errors) == 1 and "method.t_mni: unknown key" in errors[0]
    finally:
        (project / "params.yaml").write_text(params)
    assert versions(project) == before


def test_sample_writes_an_image(project: Path) -> None:
    command = ("-m", "dmd.sample", "--generator", "artifacts/generator")
    run(project, *command, "--labels", "0,1,2", "--seed", "0", "--out", "grid.png")
    first = (project / "grid.png").read_bytes()
    run(project, *command, "--labels", "0,one,2", "--seed", "0", "--out", "grid.png")
    assert (project / "grid.png").read_bytes() == first
    wrong = run(project, *command, "--labels", "11", "--out", "x.png", check=False)
    assert wrong.returncode == 1 and "'11' is none of 0..9" in wrong.stderr and not (project / "x.png").exists()
