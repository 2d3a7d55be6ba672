"""Captions as conditions, each for itself: of images, or of none; from the data to a registered generator."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from transformers import CLIPImageProcessor

from dmd.config import Params
from dmd.data.splits import DIGIT_NAMES, load_split
from dmd.preparation.prepare import prepare
from dmd.training.tokenizer import new_tokenizer
from evaluation.metrics.reference import Reference
from evaluation.models.clip_training import new_clip
from evaluation.report.sheet import select_cells
from tests.helpers.projects import commit, copy_of_the_project, run, versions
from tests.helpers.teachers.hub_folders import hub_folder


def captioned_folder(folder: Path, n: int = 240) -> list[str]:
    """Digits beside one another, without class folders; a table says of each which it is, and how much ink it has."""
    folder.mkdir(parents=True)
    digits = load_digits()
    captions = []
    with (folder / "captions.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file_name", "caption"])
        for i, (image, label) in enumerate(zip(digits.images[:n], digits.target[:n], strict=True)):
            Image.fromarray((image * 15.9).astype(np.uint8)).save(folder / f"{i:04d}.png")
            captions.append(f"a {'bold' if image.mean() > 5 else 'thin'} {DIGIT_NAMES[label]}")
            table.writerow([f"{i:04d}.png", captions[-1]])
    return captions


CHANGES = {"source": "folder", "captions": "captions.csv", "validation": 40, "test": 60}


def test_each_different_caption_is_a_condition(tmp_path: Path, params: Params) -> None:
    captions = captioned_folder(tmp_path / "images")
    cfg = params.data.model_copy(update={**CHANGES, "folder": str(tmp_path / "images")})
    prepare(cfg, tmp_path / "data")
    train = load_split(tmp_path / "data", "train")
    assert not train.class_names and train.conditions == tuple(sorted(set(train.captions)))
    assert [train.conditions[label] for label in train.labels.tolist()] == train.captions
    assert set(train.captions) <= set(captions) and len(train.labels) == 140


def test_held_out_pictures_are_found_by_their_caption(tmp_path: Path, params: Params) -> None:
    """The splits count their captions each for itself: labels of one say nothing in another."""
    captioned_folder(tmp_path / "images")
    cfg = params.data.model_copy(update={**CHANGES, "folder": str(tmp_path / "images")})
    prepare(cfg, tmp_path / "data")
    train, test = (load_split(tmp_path / "data", name) for name in ("train", "test"))
    wanted = next(i for i, caption in enumerate(train.conditions) if caption in test.captions)
    absent = next(i for i, caption in enumerate(train.conditions) if caption not in test.captions)
    ref = Reference(
        splits=["train"], features={}, held_out={}, real_labels=train.labels, labels=train.labels, class_names=[],
        captions=list(train.conditions), replicates=1, neighbours=3,
        picture_labels=train.labels.new_tensor([wanted, wanted, absent, absent]), picture_seed=0,
    )  # fmt: skip
    cells = select_cells(ref, test)
    found, blank = (cells[:2], cells[2:]) if wanted < absent else (cells[2:], cells[:2])
    first = test.captions.index(train.conditions[wanted])
    assert (found[0] == test.images[first : first + 1][0]).all() and (blank == 255).all()


def distill(project: Path, changes: dict[str, object]) -> str:
    return run(project, "-m", "flows.distill", *words(changes)).stdout


def words(changes: dict[str, object]) -> list[str]:
    return [word for key, value in changes.items() for word in ("--set", f"{key}={value}")]


def take_over(project: Path) -> dict:
    """The one experiment, put into the workspace; returns what its generator says of itself."""
    (experiment,) = json.loads(run(project, "-m", "dvc", "exp", "show", "--json").stdout)[1]["experiments"]
    run(project, "-m", "dvc", "exp", "apply", experiment["name"])
    return json.loads((project / "artifacts/generator/generator.json").read_text())


@pytest.mark.slow
@pytest.mark.long
def test_captions_go_through_the_whole_pipeline(tmp_path: Path) -> None:
    project = copy_of_the_project(tmp_path / "project")
    captions = captioned_folder(project / "zoo" / "captioned")
    commit(project, "captioned images")
    changes = {f"data.{key}": value for key, value in CHANGES.items()} | {
        "data.folder": "zoo/captioned", "teacher.network": "text_unet", "teacher.vae.steps": 20,
        "guidance.scale": 1.5, "baseline.samples": 60, "baseline.pictures_per_class": 2,
    }  # fmt: skip
    distill(project, changes)
    assert versions(project) == [1, 1, 0]
    about = take_over(project)
    assert about["captions"] == about["classes"] and set(about["captions"]) <= set(captions)
    metrics = json.loads((project / "reports/metrics.json").read_text())
    assert metrics["student"]["clip_score"] > 0 and metrics["student"]["accuracy"] is None
    assert metrics["student"]["classes"] == {} and metrics["real"]["accuracy"] is None


@pytest.mark.slow
@pytest.mark.long
def test_prompts_alone_are_enough(tmp_path: Path, params: Params) -> None:
    """Distillation without data: the teacher's own images are what the student is held against."""
    project = copy_of_the_project(tmp_path / "project")
    hub_folder("sd", project / "zoo/sd")
    prompts = [f"{kind} {name}" for kind in ("a bold", "a thin", "one") for name in DIGIT_NAMES]
    (project / "zoo/prompts").mkdir()
    (project / "zoo/prompts/train.txt").write_text("\n".join(prompts))
    clip, small = project / "zoo/clip", params.evaluator.model_copy(update={"hidden_size": 16, "layers": 1})
    clip.mkdir()
    tokenizer = new_tokenizer(clip, 77)
    new_clip(small, 8, tokenizer).save_pretrained(clip)
    tokenizer.save_pretrained(clip)
    CLIPImageProcessor(size={"shortest_edge": 8}, crop_size=8).save_pretrained(clip)
    commit(project, "prompts, a teacher, a judge")
    changes = {
        "data.source": "prompts", "data.folder": "zoo/prompts", "data.validation": 4, "data.test": 4,
        "teacher.source": "folder", "teacher.folder": "zoo/sd", "evaluator.source": "folder",
        "evaluator.folder": "zoo/clip", "guidance.scale": 2.0, "baseline.samples": 50,
        "baseline.pictures_per_class": 1,
    }  # fmt: skip
    refused = run(project, "-m", "flows.distill", "--set", "method.name=dmd2", *words(changes), check=False)
    assert "dmd2 learns from images, and the data are prompts" in refused.stderr + refused.stdout
    distill(project, changes)
    about = take_over(project)
    assert len(about["captions"]) == 22 and set(about["captions"]) <= set(prompts)
    metrics = json.loads((project / "reports/metrics.json").read_text())
    assert metrics["judged"]["made_by"] == "ddim_50" and metrics["student"]["clip_score"] is not None
    page = (project / "reports/index.html").read_text()
    assert "teacher, other noise" in page and "There were prompts and no images." in page
