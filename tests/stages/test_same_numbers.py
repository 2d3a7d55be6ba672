"""A second evaluation writes equal bytes, and another sampler does not change the measures of the others."""

import shutil
from pathlib import Path

import pandas as pd
import pytest

from dmd.data.splits import DIGIT_NAMES
from dmd.generator.export import export_generator
from dmd.generator.generator import Generator
from dmd.teachers.teacher import Teacher
from evaluation.metrics.files import read_metrics
from tests.helpers.params import set_params
from tests.helpers.stages import stage

FOLDERS = ("data", "teacher", "encoded", "evaluator")
DATA = [word for name in FOLDERS for word in (f"--{name}", f"artifacts/{name}")]
REDUCED = {
    "evaluator.steps": 20,
    "evaluator.classifier_steps": 20,
    "baseline.samples": 100,
    "baseline.draws": 2,
    "baseline.ddim_steps": [10],
    "evaluate.timing_repeats": 3,
    "evaluate.timing_batch": 4,
}


@pytest.fixture
def ready(project: Path, teacher_folder: Path, teacher: Teacher) -> Path:
    """A project with a tiny teacher, a generator, an evaluator of 20 training steps, and few samples."""
    shutil.copytree(teacher_folder, project / "artifacts/teacher")
    export_generator(
        Generator(teacher.denoiser, (999,), teacher.shape, DIGIT_NAMES), teacher, project / "artifacts/generator"
    )
    (project / "artifacts/training").mkdir()
    (project / "losses.csv").write_text("turn,critic_total\n0,1.0\n1,0.5\n")
    set_params(project / "params.yaml", REDUCED)
    for name, inputs, out in (("evaluator", DATA[:2], "evaluator"), ("encode", DATA[:4], "encoded")):
        done = stage(name, *inputs, "--out", f"artifacts/{out}")
        assert done[0] == 0, done[1]
    return project


def evaluate(project: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run `baseline` and `evaluate` with an empty store of features, and return the folder of their outputs."""
    monkeypatch.setenv("DMD_SCRATCH", str(project / "scratch" / name))
    out = project / name
    done = stage("baseline", *DATA, "--out", out / "baseline")
    assert done[0] == 0, done[1]
    names = ("metrics.json", "details.json", "timing.json", "quality.csv", "plots", "samples.png", "report.html")
    outs = [word for file in names for word in (f"--{file.partition('.')[0]}", out / file)]
    inputs = ("--baseline", out / "baseline", "--generator", "artifacts/generator", "--losses", "losses.csv")
    done = stage("evaluate", *DATA, *inputs, "--validation", "artifacts/training", *outs)
    assert done[0] == 0, done[1]
    return out


def files(folder: Path) -> dict[str, bytes]:
    """The bytes of all files except timing.json and the page, which shows the timing."""
    contents = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    return {name: data for name, data in contents.items() if name not in ("timing.json", "report.html")}


@pytest.mark.slow
def test_a_second_evaluation_is_equal_and_another_sampler_changes_no_measure(
    ready: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, again = (evaluate(ready, name, monkeypatch) for name in ("first", "again"))
    assert files(first) == files(again) and len(files(first)) == 10
    set_params(ready / "params.yaml", {"baseline.ddim_steps": [10, 25]})
    more = evaluate(ready, "more", monkeypatch)
    old, new = (read_metrics(folder / "metrics.json").model_dump() for folder in (first, more))
    assert set(new["teachers"]) == {"ddim_10", "ddim_25"} and new["teachers"]["ddim_25"] != new["teachers"]["ddim_10"]
    for record in (new["teachers"], new["fd_draws"]):
        del record["ddim_25"]
    for key in ("teachers", "fd_draws", "real", "student", "judged"):
        assert new[key] == old[key], key
    for name in ("reference.safetensors", "plan.json"):
        assert files(first)[f"baseline/{name}"] == files(more)[f"baseline/{name}"]
    few, many = (pd.read_csv(folder / "quality.csv", dtype=str) for folder in (first, more))
    assert few.equals(many[many["name"] != "teacher DDIM 25"].reset_index(drop=True)) and len(many) == len(few) + 1
