"""Numbers that are none are refused where they are read or made: weights, images, features, settings and figures."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dmd.data.splits import DIGIT_NAMES
from dmd.generator.export import export_generator
from dmd.generator.generator import Generator
from dmd.teachers.teacher import Teacher
from tests.helpers.params import set_params
from tests.helpers.stages import PATHS, arguments, stage
from tests.helpers.teachers.changes import SCHEDULER, Change, config, weights

REDUCED = {
    "pairs.count": 4, "pairs.steps": 2, "evaluator.steps": 2, "evaluator.classifier_steps": 2, "baseline.samples": 100,
    "baseline.draws": 2, "baseline.ddim_steps": [2], "evaluate.timing_batch": 4, "evaluate.timing_repeats": 3,
}  # fmt: skip
EXPLODES = weights("unet", lambda t: {k: 1e20 * v for k, v in t.items()})  # finite weights, infinite images


@pytest.fixture
def ready(project: Path, teacher_folder: Path) -> Path:
    """A project with a tiny teacher and reduced numbers."""
    shutil.copytree(teacher_folder, project / PATHS["teacher"])
    set_params(project / "params.yaml", REDUCED)
    return project


def run(name: str, *args: object) -> str:
    """Run a stage that must end in a single line; return it."""
    code, err = stage(name, *args)
    errors = [line for line in err.splitlines() if line.startswith(f"error: {name}: ")]
    assert code == 1 and len(errors) == 1 and "Traceback" not in err, err
    return errors[0]


def run_pairs() -> str:
    code, err = stage("encode", *arguments("data", "teacher"), "--out", PATHS["encoded"])
    assert code == 0, err
    return run("pairs", *arguments("data", "teacher", "encoded"), "--out", PATHS["pairs"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (EXPLODES, "the teacher's image of ddim in 2 steps has NaN or infinite values; set pairs.steps"),
        (config(SCHEDULER, num_train_timesteps=1), "pairs.steps: 2 steps do not fit on the 1 noise levels"),
    ],
)
def test_pairs_without_images_are_not_written(ready: Path, change: Change, words: str) -> None:
    change(ready / PATHS["teacher"])
    assert words in run_pairs()
    assert not (ready / PATHS["pairs"]).exists() and not list(ready.glob("scratch/pairs-*/*.safetensors"))


def break_clip(folder: Path) -> None:
    file = folder / "clip" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"projection_dim": 7}))


def nan(tensors: dict[str, Tensor]) -> None:
    tensors[min(tensors)].view(-1)[0] = float("nan")


@pytest.mark.slow
def test_an_evaluator_whose_weights_are_no_numbers_is_refused(ready: Path) -> None:
    out = ("--out", PATHS["evaluator"])
    code, err = stage("evaluator", *arguments("data"), *out)
    assert code == 0, err
    (ready / PATHS["evaluator"]).rename(ready / "good")
    for change, words in (
        (weights("clip", nan), "mine/clip/model.safetensors holds NaN or infinite values in logit_scale"),
        (weights("clip", lambda t: t.pop("logit_scale")), "mine/clip/model.safetensors has no weight logit_scale"),
        (weights("clip", lambda t: {k: v.int() for k, v in t.items()}), "holds integers for logit_scale"),
        (break_clip, "has another shape than config.json asks for in text_projection.weight (2 in all)"),
        (weights("classifier", nan), "mine/classifier/model.safetensors holds NaN or infinite values in body.0.bias"),
        (weights("classifier", lambda t: {k: v.int() for k, v in t.items()}), "holds integers for body.0.bias"),
        (weights("classifier", lambda t: t.pop("head.bias")), "mine/classifier could not be loaded as a classifier"),
    ):
        shutil.rmtree(ready / "mine", ignore_errors=True)
        shutil.copytree(ready / "good", ready / "mine")
        change(ready / "mine")
        set_params(ready / "params.yaml", {"evaluator.source": "folder", "evaluator.folder": "mine"})
        assert words in run("evaluator", *arguments("data"), *out)
        assert not (ready / PATHS["evaluator"]).exists()


@pytest.mark.slow
def test_images_that_are_no_numbers_stop_baseline_and_evaluate(ready: Path, teacher: Teacher) -> None:
    for name, needs, out in (("encode", ("data", "teacher"), "encoded"), ("evaluator", ("data",), "evaluator")):
        code, err = stage(name, *arguments(*needs), "--out", PATHS[out])
        assert code == 0, err
    inputs = arguments("data", "teacher", "encoded", "evaluator")
    shutil.copytree(ready / PATHS["teacher"], ready / "good")
    EXPLODES(ready / PATHS["teacher"])
    words = "sampler ddim_2: an image has NaN or infinite values"
    assert words in run("baseline", *inputs, "--out", "artifacts/baseline")
    shutil.rmtree(ready / PATHS["teacher"])
    (ready / "good").rename(ready / PATHS["teacher"])
    code, err = stage("baseline", *inputs, "--out", "artifacts/baseline")
    assert code == 0, err
    export_generator(Generator(teacher.denoiser, (999,), teacher.shape, DIGIT_NAMES), teacher, ready / "generator")
    EXPLODES(ready / "generator")
    (ready / "losses.csv").write_text("turn,critic_total\n0,1.0\n")
    (ready / "training").mkdir()
    outs = [
        w
        for o in ("metrics", "details", "timing", "quality", "plots", "samples", "report")
        for w in (f"--{o}", f"out/{o}")
    ]
    rest = ("--baseline", "artifacts/baseline", "--generator", "generator", "--losses", "losses.csv")
    line = run("evaluate", *inputs, *rest, "--validation", "training", *outs)
    assert "sampler student: an image has NaN or infinite values" in line and not (ready / "out").exists()


def test_a_generator_to_start_from_is_checked_as_a_teacher_is(inputs: Path, teacher: Teacher) -> None:
    """method.init_from is read before the first turn."""
    generator = Generator(teacher.denoiser, (999,), teacher.shape, DIGIT_NAMES)
    for change, words in (
        (weights("unet", nan), "start/unet/diffusion_pytorch_model.safetensors holds NaN or infinite values"),
        (
            weights("unet", lambda t: t.update(more=torch.zeros(1))),
            "has a weight that config.json does not ask for, more",
        ),
        (config("generator.json", timesteps=[1000]), "start: generator.json: timesteps [1000] are not indices 0..999"),
        (
            config("generator.json", timesteps=["9"]),
            "start: generator.json: timesteps.0: Input should be a valid integer",
        ),
    ):
        shutil.rmtree(inputs / "start", ignore_errors=True)
        export_generator(generator, teacher, inputs / "start")
        change(inputs / "start")
        set_params(inputs / "params.yaml", {"method.init_from": "start", "train.warm_start.turns": 0})
        outs = ("--out", "out", "--losses", "losses.csv", "--validation", "validation")
        assert words in run("train", *arguments(*PATHS), *outs)
        assert not (inputs / "out").exists()
