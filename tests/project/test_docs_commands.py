"""Commands of the pages that no other test runs: applying an experiment, and the dry run of every preset."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from dmd.errors import UserError
from flows.pipeline.changes import change_file
from flows.pipeline.presets import load_preset
from flows.pipeline.worktrees import check_committed, save_experiment, temporary_worktree
from scripts.docs_claims import cell
from scripts.docs_hardware import PLANS, memory, processes
from tests.helpers.projects import ROOT, environment


def run(root: Path, *words: str) -> str:
    done = subprocess.run(words, cwd=root, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def experiment(tmp_path: Path) -> tuple[Path, str]:
    """A committed project whose stage writes a metric to reports/, and an experiment with another parameter."""
    root = tmp_path / "project"
    root.mkdir()
    run(root, "git", "init", "-q")
    run(root, sys.executable, "-m", "dvc", "init", "-q")
    (root / ".gitignore").write_text("/runs/\n")
    (root / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    stage = {
        "cmd": "mkdir -p reports && grep critic_turns params.yaml > reports/metrics.yaml",
        "params": ["method"],
        "metrics": [{"reports/metrics.yaml": {"cache": False}}],
    }
    YAML().dump({"stages": {"one": stage}}, root / "dvc.yaml")
    run(root, sys.executable, "-m", "dvc", "repro", "-q")
    run(root, "git", "add", "-A")
    run(root, "git", "commit", "-qm", "one")
    with temporary_worktree(root, check_committed(root)) as place:
        change_file({"method.critic_turns": 7}, place / "params.yaml")
        run(place, sys.executable, "-m", "dvc", "repro", "-q")
        save_experiment(place, "seven")
    return root, "seven"


@pytest.mark.parametrize("words", ['git commit -qam "Take over NAME"', "git checkout -- params.yaml dvc.lock reports"])
def test_an_applied_experiment_keeps_presets_from_running_until_it_is_committed(
    experiment: tuple[Path, str], words: str
) -> None:
    root, name = experiment
    run(root, sys.executable, "-m", "dvc", "exp", "apply", "-q", name)
    assert "7" in (root / "reports/metrics.yaml").read_text()
    with pytest.raises(UserError, match=r"params\.yaml"):
        check_committed(root)
    run(root, "sh", "-c", words)
    assert check_committed(root)
    assert ("7" in (root / "reports/metrics.yaml").read_text()) == words.startswith("git commit")
    assert "up to date" in run(root, sys.executable, "-m", "dvc", "status")


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("name", PLANS)
def test_the_memory_of_each_preset_is_that_of_the_hardware_table(name: str) -> None:
    page = (ROOT / "docs/hardware.md").read_text()
    assert memory(PLANS[name]) == cell(page, name, "memory per process")


@pytest.mark.parametrize("name", PLANS)
def test_the_processes_of_each_preset_are_those_of_the_hardware_table(name: str) -> None:
    page = (ROOT / "docs/hardware.md").read_text()
    assert processes(PLANS[name]) == int(cell(page, name, "processes"))


def test_the_hardware_table_has_a_row_for_every_preset() -> None:
    presets = {path.stem for path in (ROOT / "experiments/presets").glob("*.yaml")}
    rows = re.findall(r"^\| (\w+)", (ROOT / "docs/hardware.md").read_text(), re.MULTILINE)
    assert presets <= set(rows)


def test_the_cards_that_the_readme_names_are_those_of_the_presets_and_hold_the_memory() -> None:
    """A tenth of a card remains free for what the estimate does not count."""
    page, readme = (ROOT / "docs/hardware.md").read_text(), (ROOT / "README.md").read_text()
    rows = re.findall(r"\| ((\d+) GPUs of (\d+) GB) \| [^|]*preset `(\w+)` \|", readme)
    assert {name for *_, name in rows} == {"cifar10", "imagenet64", "sd15", "sdxl", "flux1_dev"}
    for cards, count, gigabytes, name in rows:
        assert load_preset(ROOT, name).description.endswith(f"on {cards}"), name
        assert cell(page, name, "processes") == count, name
        size, unit = cell(page, name, "memory per process").split()
        assert unit == "GiB" and float(size) * 2**30 < 0.9 * int(gigabytes) * 1e9, name
