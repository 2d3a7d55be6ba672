"""The pipeline runs on captions and on prompts, from the data to a registered generator."""

import json
from pathlib import Path

import pytest
from transformers import CLIPImageProcessor

from dmd.config import Params
from dmd.data.splits import DIGIT_NAMES
from dmd.training.tokenizer import new_tokenizer
from evaluation.metrics.files import read_metrics
from evaluation.models.clip_training import new_clip
from tests.helpers.projects import commit, copy_of_the_project, run, versions
from tests.helpers.sources import CAPTIONED, captioned_folder
from tests.helpers.teachers.hub_folders import hub_folder


def distill(project: Path, changes: dict[str, object]) -> str:
    """Run the flow with changes to params.yaml, and return its output."""
    return run(project, "-m", "flows.distill", *words(changes)).stdout


def words(changes: dict[str, object]) -> list[str]:
    """Options of the flow that make changes to params.yaml."""
    return [word for key, value in changes.items() for word in ("--set", f"{key}={value}")]


def apply_experiment(project: Path) -> dict:
    """Apply the only experiment to the workspace, and return generator.json."""
    (experiment,) = json.loads(run(project, "-m", "dvc", "exp", "show", "--json").stdout)[1]["experiments"]
    run(project, "-m", "dvc", "exp", "apply", experiment["name"])
    return json.loads((project / "artifacts/generator/generator.json").read_text())


@pytest.mark.slow
@pytest.mark.long
def test_the_pipeline_runs_on_captions(tmp_path: Path) -> None:
    project = copy_of_the_project(tmp_path / "project")
    captions = captioned_folder(project / "zoo" / "captioned")
    commit(project, "captioned images")
    changes = {f"data.{key}": value for key, value in CAPTIONED.items()} | {
        "data.folder": "zoo/captioned", "teacher.network": "text_unet", "teacher.vae.steps": 20,
        "guidance.scale": 1.5, "baseline.samples": 60, "baseline.pictures_per_class": 2,
    }  # fmt: skip
    distill(project, changes)
    assert versions(project) == [1, 1, 0]
    about = apply_experiment(project)
    assert about["captions"] == about["classes"] and set(about["captions"]) <= set(captions)
    metrics = read_metrics(project / "reports/metrics.json").model_dump()
    assert metrics["student"]["clip_score"] > 0 and metrics["student"]["accuracy"] is None
    assert metrics["student"]["classes"] == {} and metrics["real"]["accuracy"] is None


@pytest.mark.slow
@pytest.mark.long
def test_the_pipeline_runs_on_prompts_without_images(tmp_path: Path, params: Params) -> None:
    """If the data hold no images, the student is compared with images of the teacher."""
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
    commit(project, "prompts, a teacher, an evaluator")
    changes = {
        "data.source": "prompts", "data.folder": "zoo/prompts", "data.validation": 4, "data.test": 4,
        "teacher.source": "folder", "teacher.folder": "zoo/sd", "evaluator.source": "folder",
        "evaluator.folder": "zoo/clip", "guidance.scale": 2.0, "baseline.samples": 50,
        "baseline.pictures_per_class": 1,
    }  # fmt: skip
    refused = run(project, "-m", "flows.distill", "--set", "method.name=dmd2", *words(changes), check=False)
    assert "dmd2 needs images, but the data are prompts; use dmd" in refused.stderr + refused.stdout
    distill(project, changes)
    about = apply_experiment(project)
    assert len(about["captions"]) == 22 and set(about["captions"]) <= set(prompts)
    metrics = read_metrics(project / "reports/metrics.json").model_dump()
    assert metrics["judged"]["made_by"] == "ddim_50" and metrics["student"]["clip_score"] is not None
    page = (project / "reports/index.html").read_text()
    assert "teacher, other noise" in page and "There were prompts and no images." in page
