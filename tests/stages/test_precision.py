"""Stages pairs, baseline and evaluate sample with weights in bfloat16, and write figures near those of float32."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import dmd.generator.generator
import dmd.teachers.teacher
from dmd.data.splits import DIGIT_NAMES
from dmd.generator.export import export_generator
from dmd.generator.generator import Generator
from dmd.teachers.pairs import Pairs, load_pairs
from dmd.teachers.teacher import load_teacher
from evaluation.metrics.files import read_metrics
from tests.helpers.networks import CPU
from tests.helpers.params import set_params
from tests.helpers.sources import CAPTIONS
from tests.helpers.stages import PATHS, arguments, stage
from tests.helpers.teachers.hub_folders import hub_folder

REDUCED = {
    "guidance.scale": 2.0,
    "evaluator.steps": 20,
    "evaluator.classifier_steps": 20,
    "pairs.count": 8,
    "pairs.steps": 2,
    "baseline.samples": 60,
    "baseline.draws": 2,
    "baseline.ddim_steps": [2],
    "evaluate.timing_repeats": 3,
    "evaluate.timing_batch": 4,
}
OUTS = ("metrics.json", "details.json", "timing.json", "quality.csv", "plots", "samples.png", "report.html")


@pytest.fixture
def ready(project: Path) -> Path:
    """A project with a small SD3 in the hub's format, its generator, and what the stages read."""
    hub_folder("sd3", project / "artifacts/teacher")
    teacher = load_teacher(project / "artifacts/teacher", CPU, captions=CAPTIONS)
    generator = Generator(teacher.denoiser, (999,), teacher.shape, DIGIT_NAMES, teacher.codec)
    export_generator(generator, teacher, project / "artifacts/generator")
    (project / "artifacts/training").mkdir()
    (project / "losses.csv").write_text("turn,critic_total\n0,1.0\n1,0.5\n")
    set_params(project / "params.yaml", REDUCED)
    for name, needs, out in (("evaluator", ("data",), "evaluator"), ("encode", ("data", "teacher"), "encoded")):
        run(name, *arguments(*needs), "--out", PATHS[out])
    return project


def run(name: str, *words: object) -> None:
    code, err = stage(name, *words)
    assert code == 0, f"{name}: {err}"


def record(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, found: list[Any]) -> None:
    """Keep what a function of a module returns in `found`; a stage imports the function anew when it starts."""
    original: Callable[..., Any] = getattr(module, name)

    def kept(*args: Any, **options: Any) -> Any:
        found.append(original(*args, **options))
        return found[-1]

    monkeypatch.setattr(module, name, kept)


@pytest.mark.slow
def test_each_stage_samples_in_its_precision(ready: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = list[Any]()
    record(monkeypatch, dmd.teachers.teacher, "load_teacher", loaded)
    record(monkeypatch, dmd.generator.generator, "load_generator", loaded)
    folders = {}
    for precision in ("fp32", "bf16"):
        folders[precision] = ready / precision
        keys = (f"{name}.precision" for name in ("pairs", "baseline", "evaluate"))
        set_params(ready / "params.yaml", dict.fromkeys(keys, precision))
        networks = [
            net for name in ("pairs", "baseline", "evaluate") for net in sample(name, folders[precision], loaded)
        ]
        assert len(networks) == 4, "a teacher in each stage, and the student"
        for net in networks:
            types = {p.dtype for p in net.denoiser.parameters()}
            assert types == ({torch.float32} if precision == "fp32" else {torch.float32, torch.bfloat16})
            assert {p.dtype for p in net.codec.parameters()} == {torch.float32}
    exact, close = (load_pairs(folder / "pairs") for folder in folders.values())
    assert_near(exact, close)
    whole, half = (read_metrics(folder / "metrics.json") for folder in folders.values())
    assert whole.provenance.teacher_precision == "fp32" and half.provenance.teacher_precision == "bf16"
    assert '"teacher_precision"' not in (folders["fp32"] / "baseline/baseline.json").read_text()
    for measures in ((m.student, m.teachers["ddim_2"]) for m in (whole, half)):
        assert all(value > 0 for m in measures for value in m.values("fd").values())
    for name, value in whole.student.values("fd").items():
        assert 0 < abs(half.student.values("fd")[name] - value) < 0.1 * value


def sample(name: str, folder: Path, loaded: list[Any]) -> list[Any]:
    """Run a stage, and return the teachers and generators that it loaded."""
    loaded.clear()
    needs = arguments("data", "teacher", "encoded")
    judged = (*needs, *arguments("evaluator"))
    files = [word for file in OUTS for word in (f"--{file.partition('.')[0]}", folder / file)]
    of_student = ("--generator", "artifacts/generator", "--losses", "losses.csv", "--validation", "artifacts/training")
    words = {
        "pairs": (*needs, "--out", folder / "pairs"),
        "baseline": (*judged, "--out", folder / "baseline"),
        "evaluate": (*judged, "--baseline", folder / "baseline", *of_student, *files),
    }
    run(name, *words[name])
    return list(loaded)


def assert_near(exact: Pairs, close: Pairs) -> None:
    """The noise is the same, and the images differ by rounding alone."""
    (z, x), (same, rounded) = ((torch.as_tensor(p.z[:]), torch.as_tensor(p.x[:])) for p in (exact, close))
    assert torch.equal(z, same) and rounded.dtype == torch.float32
    assert 0 < (rounded - x).std() < 0.1 * x.std()
