"""Each old path or module is an error of one line that names the new one."""

import subprocess
import sys
from pathlib import Path

import pytest

from dmd.config import Params
from dmd.errors import ConfigError
from flows.distill import main
from flows.pipeline.changes import change_params
from flows.pipeline.presets import load_preset
from flows.runtime.moved import MODULES, PATHS, check_path, find_new_path, list_leftovers
from tests.helpers.projects import ROOT, environment


@pytest.mark.parametrize(("old", "new"), PATHS.items())
def test_an_old_path_maps_to_a_new_path_that_exists(old: str, new: str) -> None:
    assert find_new_path(old) == find_new_path(f"./{old}") == new
    assert not (ROOT / old).exists() and (ROOT / new).exists()
    assert find_new_path(f"{old}/a/b.yaml") == f"{new}/a/b.yaml"
    assert find_new_path(f"{old}2") is None and find_new_path(new) is None


@pytest.mark.parametrize(("old", "new"), MODULES.items())
def test_importing_an_old_module_names_the_new_module(old: str, new: str) -> None:
    argv = [sys.executable, "-m", old]
    done = subprocess.run(argv, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert f"{old} has moved: use {new}" in done.stderr
    with pytest.raises(ModuleNotFoundError, match=f"^{old} has moved: use {new}$"):
        __import__(old)
    __import__(new)


def test_another_missing_module_is_reported_by_python() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"^No module named 'flows\.nothing'$"):
        __import__("flows.nothing")


@pytest.mark.parametrize(
    "name", ["presets/quick.yaml", "presets/quick", "experiments/presets/quick.yaml", "quick.yaml"]
)
def test_a_preset_given_by_a_path_names_the_preset(name: str) -> None:
    with pytest.raises(
        ConfigError, match=f"^there is no preset '{name}'; a preset is given by its name: --preset quick$"
    ):
        load_preset(ROOT, name)


@pytest.mark.parametrize("name", ["mine", "presets/mine.yaml"])
def test_a_preset_in_the_old_folder_names_the_new_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "presets").mkdir()
    (tmp_path / "presets" / "mine.yaml").write_text("description: d\nchanges: {}\n")
    hint = "presets have moved: git mv presets/mine.yaml experiments/presets/, then --preset mine"
    with pytest.raises(ConfigError, match=f"^there is no preset '{name}'; {hint}$"):
        load_preset(tmp_path, name)


def test_an_ablation_in_the_old_folder_names_the_new_path(tmp_path: Path) -> None:
    moved = "^ablations/x.yaml has moved: use experiments/ablations/x.yaml$"
    for path in (Path("ablations/x.yaml"), tmp_path / "ablations" / "x.yaml"):
        with pytest.raises(ConfigError, match=moved):
            check_path(path, tmp_path)
    check_path(Path("experiments/ablations/nothing.yaml"), tmp_path)
    (tmp_path / "ablations").mkdir()
    (tmp_path / "ablations" / "x.yaml").write_text("")
    check_path(Path("ablations/x.yaml"), tmp_path)  # a user's own file still works


def test_the_ablate_command_names_the_new_path() -> None:
    argv = [sys.executable, "-m", "flows.ablate", "ablations/eps.yaml"]
    done = subprocess.run(argv, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    assert done.stderr == "error: ablations/eps.yaml has moved: use experiments/ablations/eps.yaml\n"


@pytest.mark.parametrize("key", ["data.folder", "teacher.folder", "evaluator.folder", "method.init_from"])
def test_the_old_value_for_no_folder_names_the_new_value(key: str, params: Params) -> None:
    with pytest.raises(ConfigError, match=f"^preset old: {key}: zoo/none is no longer used; write none$"):
        change_params(params.model_dump(by_alias=True), {key: "zoo/none"}, "preset old", ROOT)


def test_an_old_record_in_a_preset_names_the_new_path(params: Params) -> None:
    with pytest.raises(ConfigError, match=r"^here: .* has moved: use records/fashion_mnist/earlier\.json$"):
        changes = {"baseline.measured": "benchmarks/fashion_mnist/earlier.json"}
        change_params(params.model_dump(by_alias=True), changes, "here", ROOT)


def test_files_of_the_user_at_old_paths_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert list_leftovers(tmp_path) == list_leftovers(ROOT) == []
    (tmp_path / "prefect.yaml").write_text("")
    (tmp_path / "presets").mkdir()
    lines = [
        "presets is no longer read: move it to experiments/presets",
        "prefect.yaml is no longer read: move it to deploy/prefect.yaml",
    ]
    assert list_leftovers(tmp_path) == lines
    (tmp_path / "dvc.yaml").write_text("stages: {}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("dmd.signals.signal.signal", lambda *_: None)
    assert main([]) != 0
    assert capsys.readouterr().err.splitlines()[:2] == [f"note: {line}" for line in lines]
