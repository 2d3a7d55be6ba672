"""A folder of a text transformer runs through the stages to a generator that its stock pipeline runs elsewhere."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers.params import set_params
from tests.helpers.projects import ROOT, run
from tests.helpers.stages import PATHS, arguments, stage
from tests.helpers.teachers.hub_folders import CARDS, hub_folder

SIDE = 8  # of the data's images; the pipelines of Sana and Lumina 2 refuse such small ones
REDUCED = {
    "teacher.source": "folder",
    "teacher.folder": "mine",
    "guidance.scale": 2.0,
    "encode.precision": "bf16",
    "evaluator.steps": 2,
    "evaluator.classifier_steps": 2,
    "pairs.count": 8,
    "pairs.steps": 2,
    "train.generator_turns": 2,
    "train.batch_size": 4,
    "train.generator_batch_size": 4,
    "train.warm_start.turns": 1,
    "train.warm_start.critic_turns": 1,
    "train.warm_start.batch_size": 4,
    "train.validation.images": 16,
    "train.validation.draws": 2,
}
# One step with all weights, and four steps along the ODE with adapters.
ONE = {"train.lora_rank": 0}
FOUR = {"train.lora_rank": 2, "train.lora_rank_critic": 2, "method.steps": 4, "method.levels.between": "ode"}
OUTS = ("--out", "generator", "--losses", "losses.csv", "--validation", "training")


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        *[(kind, ONE) for kind in ("sd3", "pixart", "z_image", "aura_flow")],
        *[(kind, FOUR) for kind in ("flux", "flux2", "qwen_image")],
    ],
)
def test_the_stock_pipeline_gives_the_images_of_the_command(
    project: Path, kind: str, changes: dict[str, object]
) -> None:
    """With the seed of the card's code, `dmd.sample` writes the same image."""
    hub_folder(kind, project / "mine")
    set_params(project / "params.yaml", REDUCED | changes)
    teacher = ("teacher", "--data", PATHS["data"], "--out", PATHS["teacher"], "--losses", "teacher.csv")
    makes = [(name, *arguments(*needs), "--out", PATHS[out]) for name, needs, out in (
        ("encode", ("data", "teacher"), "encoded"),
        ("pairs", ("data", "teacher", "encoded"), "pairs"),
        ("evaluator", ("data",), "evaluator"),
        ("trunk", ("data",), "trunk"),
    )]  # fmt: skip
    for name, *words in (teacher, *makes, ("train", *arguments(*PATHS), *OUTS)):
        code, err = stage(name, *words)
        assert code == 0, f"{name}: {err}"
    command = ("-m", "dmd.sample", "--generator", "generator", "--labels", "0", "--seed", "0", "--out", "images")
    run(project, *command, PYTHONPATH=str(ROOT))
    subprocess.run([sys.executable, "-c", CARDS, str(project / "generator")], cwd=project / "mine", check=True)
    ours = np.asarray(Image.open(next((project / "images").glob("*.png")))).astype(int)
    theirs = np.load(project / "generator/image.npy").astype(int)
    assert ours.shape == theirs.shape == (SIDE, SIDE)
    assert np.abs(ours - theirs).max() <= 1 and ours.std() > 1
