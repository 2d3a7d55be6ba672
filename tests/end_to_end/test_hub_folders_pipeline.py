"""Teachers in the hub's format run through every stage to a registered version that generates images."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.projects import commit, copy_of_the_project, run, versions
from tests.helpers.teachers import diffusers_recipe
from tests.helpers.teachers.hub_folders import CARDS, KINDS, STOCK, hub_folder

pytestmark = [pytest.mark.slow, pytest.mark.long]

UNCONDITIONAL = ("ddpm", "recipe")
FETCH = (
    "import mlflow, sys; from pathlib import Path; from flows.registry.store import tracking_uri;"
    "mlflow.set_tracking_uri(tracking_uri(Path.cwd()));"
    "mlflow.artifacts.download_artifacts(f'models:/digits-one-step/{sys.argv[1]}', dst_path=sys.argv[2])"
)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with teachers in zoo/; its data and evaluator serve all tests."""
    folder = copy_of_the_project(tmp_path_factory.mktemp("hub") / "project")
    for kind in KINDS:
        hub_folder(kind, folder / "zoo" / kind)
    diffusers_recipe.train(folder / "zoo" / "recipe", steps=20, channels=(8, 16))
    commit(folder, "teachers of the hub")
    return folder


@pytest.mark.parametrize(("kind", "rank"), [*itertools.product(KINDS, (0, 2)), ("recipe", 0)])
def test_a_folder_becomes_a_registered_generator(project: Path, tmp_path: Path, kind: str, rank: int) -> None:
    """The parameters differ from the defaults only by the path and the rank of the adapters."""
    before = versions(project)[0]
    changes = ["teacher.source=folder", f"teacher.folder=zoo/{kind}", f"train.lora_rank={rank}"]
    changes += ["train.lora_adapter=true"] if rank else []
    changes += ["data.size=32"] if kind in ("sana", "lumina2") else []  # their pipelines refuse smaller images
    output = run(project, "-m", "flows.distill", *(word for change in changes for word in ("--set", change))).stdout
    assert versions(project) == [before + 1, before + 1, 0], output
    run(project, "-c", FETCH, str(before + 1), str(tmp_path / "version"))
    generator = tmp_path / "version" / "artifacts" / "generator"
    assert (generator / "adapter").is_dir() == (rank > 0)
    assert json.loads((generator / "generator.json").read_text())["timesteps"]
    subprocess.run([sys.executable, "-c", CARDS, str(generator)], cwd=tmp_path, check=True)
    image = np.load(generator / "image.npy")
    assert image.std() > 0
    if kind in UNCONDITIONAL:  # the cards of the other kinds run the stock pipeline
        subprocess.run([sys.executable, "-c", STOCK, str(generator)], cwd=tmp_path, check=True)
        assert np.abs(np.load(generator / "stock.npy").astype(int) - image).max() <= 1
