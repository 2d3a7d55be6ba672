"""A user with other data learns which keys still hold the values of digits."""

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from dmd.config import validate
from flows.pipeline.changes import change_params, resolve_local_paths
from flows.pipeline.dry_run import plan
from flows.pipeline.own_data import DIGITS, find_values_of_digits, list_notes
from flows.pipeline.presets import list_presets, make_variants
from tests.helpers.params import set_params
from tests.helpers.projects import ROOT
from tests.helpers.toy_graph import commit


def test_values_of_digits_are_noted_for_other_data() -> None:
    raw = YAML(typ="safe").load(ROOT / "params.yaml")
    assert list_notes(validate(raw, "digits")) == []
    raw["data"] |= {"source": "folder", "folder": str(ROOT)}
    digits, licence = list_notes(validate(raw, "folder"))
    for key, value in DIGITS.items():  # so that a change of params.yaml is a change of DIGITS
        assert f"{key} ({value})" in digits
    assert licence.startswith("note: register.licence is unknown")
    raw["data"] |= {"captions": "captions.csv"}  # each image has its own
    raw["register"] |= {"name": "mine", "licence": "MIT"}
    (note,) = list_notes(validate(raw, "folder"))
    assert "caption" not in note and "register" not in note and "data.size (8)" in note


@pytest.mark.parametrize("name", list_presets(ROOT))
def test_no_preset_keeps_values_of_digits_or_registers_as_the_demo_does(name: str) -> None:
    (variant,) = make_variants(ROOT, name, {}, [])
    params = validate(change_params(YAML(typ="safe").load(ROOT / "params.yaml"), variant.fill(ROOT), name, ROOT), name)
    assert find_values_of_digits(params) == []
    assert params.register_.licence != "unknown" or name in ("quick", "cifar10")
    assert params.register_.name != "digits-one-step" or name == "digits"


@pytest.mark.parametrize("ignored", ["", "mine/*.png\n"])
def test_a_folder_of_which_git_tracks_a_part_is_used_as_it_is(toy: Path, ignored: str) -> None:
    """A worktree would have the tracked files alone, and the run would train on a subset."""
    for folder in ("mine", "none"):
        (toy / folder).mkdir()
        (toy / folder / ".gitkeep").touch()
    (toy / "mine" / "a.png").touch()
    (toy / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    commit(toy)
    changes = {"data.source": "folder", "data.folder": "mine"}
    params = YAML(typ="safe").load(toy / "params.yaml")
    assert resolve_local_paths(params, changes, toy) == {}
    (toy / ".gitignore").write_text(ignored)
    (toy / "mine" / "b.png").touch()
    assert resolve_local_paths(params, changes, toy) == {"data.folder": str(toy / "mine")}
    (toy / "none" / "b.png").touch()
    assert resolve_local_paths(params, {"data.folder": "none"}, toy) == {}


def test_a_dry_run_prints_the_notes(toy: Path) -> None:
    (toy / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    assert "note" not in plan(toy, [], [])
    set_params(toy / "params.yaml", {"data.source": "folder", "data.folder": str(toy)})
    text = plan(toy, [], [])
    assert "note: values of digits, not of your data: data.caption (a handwritten {name}), " in text
    assert "note: register.licence is unknown" in text
