"""A wrong params.yaml names the key, the value and what is allowed."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from dmd.config import ConfigError, load_params
from tests.helpers.params import set_params
from tests.helpers.projects import ROOT


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A copy of the default params.yaml."""
    return Path(shutil.copy(ROOT / "params.yaml", tmp_path))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train.generator_turns": -3}, ["train.generator_turns", "-3", "greater than or equal to 1"]),
        ({"teacher.prediction_type": "v"}, ["teacher.prediction_type", "'v'", "epsilon"]),
        ({"train.generator_turns": "many"}, ["train.generator_turns", "'many'", "integer"]),
        ({"train.generator_turns": 1.5}, ["train.generator_turns", "1.5"]),
        ({"method.normaliser_min": float("nan")}, ["method.normaliser_min", "nan", "finite"]),
        ({"method.t_min": 0.99}, ["method", "t_min: 0.99", "below t_max"]),
        ({"pairs.count": 0}, ["train.warm_start.turns", "2000", "pairs.count"]),
        ({"train.warm_start.turns": -1}, ["train.warm_start.turns", "-1", "greater than or equal to 0", "pairs"]),
        ({"method.generator_timestep": 1000}, ["method.generator_timestep", "1000", "999"]),
        ({"teacher.source": "folder", "teacher.folder": "no/where"}, ["teacher", "no/where", "is not a folder"]),
        ({"runtime": 3}, ["runtime: 3 is not allowed; it is a group with the keys device, "]),
    ],
)
def test_a_wrong_value_is_named(file: Path, changes: dict[str, Any], words: list[str]) -> None:
    set_params(file, changes)
    with pytest.raises(ConfigError) as e:
        load_params(file)
    for word in words:
        assert word in str(e.value), f"{word!r} not in {e.value}"


@pytest.mark.parametrize(
    ("key", "name", "words"),
    [
        ("method.critic_turns", "critic_turn", ["method.critic_turn", "unknown key", "did you mean 'critic_turns'"]),
        ("train.warm_start.critic_turns", "critic_turn", ["train.warm_start.critic_turn", "did you mean"]),
        ("register", "registry", ["registry: unknown key", "did you mean 'register'"]),
        ("runtime.threads", "thread", ["runtime.threads: missing", "meaning: CPU threads"]),
    ],
)
def test_a_wrong_key_is_named(file: Path, key: str, name: str, words: list[str]) -> None:
    set_params(file, {}, renames={key: name})
    with pytest.raises(ConfigError) as e:
        load_params(file)
    for word in words:
        assert word in str(e.value), f"{word!r} not in {e.value}"


def test_shards_are_not_trained_in_fp16(file: Path) -> None:
    set_params(file, {"train.precision": "fp16", "train.shard": True})
    with pytest.raises(ConfigError, match=r"train\.precision: fp16 .* take bf16 or fp32"):
        load_params(file)


def test_every_mistake_is_one_line(file: Path) -> None:
    set_params(file, {"method.critic_turns": 0}, renames={"baseline.samples": "sample"})
    with pytest.raises(ConfigError) as e:
        load_params(file)
    assert len(str(e.value).splitlines()) == 3  # out of range, missing, unknown


@pytest.mark.parametrize(
    ("text", "words"), [("a: [", "not valid YAML"), ("[]", "holds no groups"), (None, "No such file")]
)
def test_an_unreadable_file_is_said(tmp_path: Path, text: str | None, words: str) -> None:
    file = tmp_path / "params.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError, match=words):
        load_params(file)


def test_numbers_are_read_as_dvc_reads_them(file: Path) -> None:
    """YAML 1.2: 1e-3 is a number. YAML 1.1 parsers, such as PyYAML, read a string."""
    text, count = re.subn("normaliser_min: .*", "normaliser_min: 1e-3", file.read_text())
    file.write_text(text)
    assert count == 1
    assert load_params(file).method.normaliser_min == 1e-3


def test_params_are_frozen() -> None:
    with pytest.raises(Exception, match="frozen"):
        load_params(ROOT / "params.yaml").train.seed = 1  # type: ignore[misc]
