"""A wrong params.yaml names the key, the value and what is allowed."""

from pathlib import Path

import pytest

from dmd.config import ConfigError, load_params
from tests.helpers.projects import ROOT

DEFAULT = (ROOT / "params.yaml").read_text()


def load_changed(tmp_path: Path, old: str, new: str) -> None:
    assert old in DEFAULT
    file = tmp_path / "params.yaml"
    file.write_text(DEFAULT.replace(old, new, 1))
    load_params(file)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("  critic_turns:", "  critic_turn:", ["method.critic_turn", "unknown key", "did you mean 'critic_turns'"]),
        ("generator_turns: 150", "generator_turns: -3", ["train.generator_turns", "-3", "greater than or equal to 1"]),
        ("  prediction_type: v_prediction", "  prediction_type: v", ["teacher.prediction_type", "'v'", "epsilon"]),
        ("generator_turns: 150", "generator_turns: many", ["train.generator_turns", "'many'", "integer"]),
        ("generator_turns: 150", "generator_turns: 1.5", ["train.generator_turns", "1.5"]),
        ("normaliser_min: 1.0e-4", "normaliser_min: .nan", ["method.normaliser_min", "nan", "finite"]),
        ("t_min: 0.02", "t_min: 0.99", ["method", "t_min: 0.99", "below t_max"]),
        ("count: 9000", "count: 0", ["train.warm_start.turns", "2000", "pairs.count"]),
        ("    critic_turns: 100", "    critic_turn: 100", ["train.warm_start.critic_turn", "did you mean"]),
        ("    turns: 2000", "    turns: -1", ["train.warm_start.turns", "-1", "greater than or equal to 0", "pairs"]),
        ("generator_timestep: auto", "generator_timestep: 1000", ["method.generator_timestep", "1000", "999"]),
        ("source: train             # train | folder | hub\n  folder: none          # a diff",
         "source: folder\n  folder: no/where          # a diff", ["teacher", "no/where", "is not a folder"]),
        ("runtime:\n", "runtime: 3\nrun:\n", ["runtime: 3 is not allowed; it is a group with the keys device, "]),
        ("register:\n", "registry:\n", ["registry: unknown key", "did you mean 'register'"]),
        ("  threads: 1 ", "  thread: 1 ", ["runtime.threads: missing", "meaning: CPU threads"]),
    ],
)  # fmt: skip
def test_a_mistake_names_itself(tmp_path: Path, old: str, new: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as e:
        load_changed(tmp_path, old, new)
    for word in words:
        assert word in str(e.value), f"{word!r} not in {e.value}"


def test_shards_are_not_trained_in_fp16(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text(DEFAULT.replace("precision: fp32", "precision: fp16").replace("shard: false", "shard: true"))
    with pytest.raises(ConfigError, match=r"train\.precision: fp16 .* take bf16 or fp32"):
        load_params(file)


def test_every_mistake_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text(DEFAULT.replace("critic_turns: 5", "critic_turns: 0").replace("  samples: 1797", "  sample: 1797"))
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


def test_numbers_are_read_as_dvc_reads_them(tmp_path: Path) -> None:
    """YAML 1.2: 1e-3 is a number. YAML 1.1 parsers, such as PyYAML, read a string."""
    file = tmp_path / "params.yaml"
    file.write_text(DEFAULT.replace("normaliser_min: 1.0e-4", "normaliser_min: 1e-3"))
    assert load_params(file).method.normaliser_min == 1e-3


def test_params_are_frozen() -> None:
    with pytest.raises(Exception, match="frozen"):
        load_params(ROOT / "params.yaml").train.seed = 1  # type: ignore[misc]
