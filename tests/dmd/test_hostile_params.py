"""Names and files that no parameter can mean are one line, not a traceback."""

from pathlib import Path

import pytest

from dmd.config import ConfigError, Params, validate
from dmd.config_changes import change_values
from dmd.config_paths import check_paths
from dmd.yaml_files import load_yaml
from tests.helpers.params import with_values
from tests.helpers.projects import ROOT


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b"])
@pytest.mark.parametrize("key", ["data.folder", "encode.prompts", "baseline.measured", "method.init_from"])
def test_a_path_that_no_file_can_have_is_one_line(tmp_path: Path, key: str, name: str) -> None:
    changed = change_values(load_yaml(ROOT / "params.yaml"), {key: name}, "test")
    with pytest.raises(ConfigError) as e:
        check_paths(validate(changed, "params.yaml"), tmp_path, "params.yaml")
    assert str(e.value).startswith(f"params.yaml: {key}: ") and len(str(e.value).splitlines()) == 1


@pytest.mark.parametrize(
    "content", ["[" * 10**5, '{"num_train_timesteps": Infinity}', "[]", '{"num_train_timesteps": []}']
)
def test_a_schedule_that_cannot_be_read_is_left_to_the_stage(params: Params, tmp_path: Path, content: str) -> None:
    file = tmp_path / "teacher/scheduler/scheduler_config.json"
    file.parent.mkdir(parents=True)
    file.write_text(content)
    check_paths(with_values(params, teacher={"source": "folder", "folder": "teacher"}), tmp_path, "params.yaml")


@pytest.mark.parametrize("key", ["a\n\nb", "x" * 10**6, "\x1b[2J"])
def test_a_key_out_of_a_file_is_part_of_one_line(key: str) -> None:
    raw = load_yaml(ROOT / "params.yaml")
    raw["train"][key] = 1
    with pytest.raises(ConfigError) as e:
        validate(raw, "params.yaml")
    assert "unknown key" in str(e.value) and len(str(e.value)) < 4000
    assert len(str(e.value).splitlines()) == 1 and "\x1b" not in str(e.value)
