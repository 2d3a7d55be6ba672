"""The whole flow at an odd path, with odd class names, a dead proxy, a read-only home and no git user."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from sklearn.datasets import load_digits

from tests.helpers.params import set_params
from tests.helpers.projects import commit, copy_of_the_project, versions

pytestmark = [pytest.mark.slow, pytest.mark.long]

CLASSES = ("jack-o'-lantern", "tench, Tinca tinca", "Kürbis")
READ_ONLY = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'  # in a mount namespace of its own


def make_images(folder: Path, count: int = 120) -> None:
    """Write digits as image files in a folder for each class."""
    digits = load_digits()
    for label, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for i, image in enumerate(digits.images[digits.target == label][:count]):
            Image.fromarray((image * 15).astype("uint8")).save(folder / name / f"{i}.png")


def read_only(home: Path) -> list[str]:
    """Return the command by which another one runs with `home` read-only; skip the test if there is none."""
    if os.geteuid() != 0:
        home.chmod(0o555)
        return []
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-m", "true"], check=False).returncode:
        pytest.skip("root may write into every folder, and this system allows no mounts")
    return ["unshare", "-m", "sh", "-c", READ_ONLY, str(home)]


def test_the_whole_flow_in_a_hard_environment(tmp_path: Path) -> None:
    project = copy_of_the_project(tmp_path / "Mein Gerät" / "das Projekt")
    make_images(project / "runs" / "digits")
    (project / "runs" / "digits").rename(project / "Bilder")
    with (project / ".gitignore").open("a") as ignored:
        ignored.write("/Bilder/\n")
    numbers = {"data.validation": 40, "data.test": 60, "baseline.samples": 60, "baseline.neighbours": 2}
    set_params(project / "params.yaml", numbers)
    commit(project, "a smaller set")
    home = tmp_path / "home"
    home.mkdir()
    dead = "http://127.0.0.1:9"
    names = ("http_proxy", "https_proxy", "all_proxy")
    hook = {"GIT_DIR": str(tmp_path / "other" / ".git"), "GIT_INDEX_FILE": str(tmp_path / "index")}
    env = {name: dead for word in names for name in (word, word.upper())} | hook
    env |= {"PATH": os.defpath, "HOME": str(home), "GIT_CONFIG_NOSYSTEM": "1", "OMP_NUM_THREADS": "1", "LANG": "C"}
    caption = "data.caption='une écriture: \\ de {name}'"
    sets = ["data.source=folder", "data.folder=Bilder", "data.channels=1", caption]
    command = [sys.executable, "-m", "flows.distill", *(word for change in sets for word in ("--set", change))]
    done = subprocess.run(
        [*read_only(home), *command], cwd=project, env=env, capture_output=True, text=True, check=False, timeout=1800
    )
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stdout + done.stderr
    assert "note: git has no user here, so experiments are committed as onestep <onestep@localhost>" in done.stderr
    assert versions(project) == [1, 1, 0] and not list(home.iterdir())
    name = done.stdout.split("dvc exp apply ")[1].split()[0]
    reference = next((project / ".git/refs/exps").rglob(name)).relative_to(project / ".git")
    saved = subprocess.run(
        ["git", "show", f"{reference}:params.yaml"], cwd=project, capture_output=True, text=True, check=True
    )
    assert "caption: 'une écriture: \\ de {name}'" in saved.stdout
