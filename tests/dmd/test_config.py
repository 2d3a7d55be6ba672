"""Errors in params.yaml name the key, the value and the allowed values."""

import io
import shutil
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from dmd.config import ConfigError, Params, load_params, validate
from dmd.config_paths import check_paths
from tests.helpers.params import set_params, with_values
from tests.helpers.projects import ROOT

Raw = dict[str, Any]


def default() -> Raw:
    """params.yaml as a dict of groups."""
    return YAML(typ="safe").load(ROOT / "params.yaml")


def with_value(key: str, value: object, former: str | None = None) -> Raw:
    """The groups of params.yaml with a value under a dotted key, and without the key `former` of its group."""
    raw = default()
    *path, last = key.split(".")
    group = raw
    for part in path:
        group = group[part]
    group[last] = value
    if former:
        del group[former]
    return raw


@pytest.mark.parametrize(
    ("key", "value", "former", "words"),
    [
        ("method.critic_turn", 5, "critic_turns",
         ["method.critic_turn: unknown key", "did you mean 'critic_turns'", "method.critic_turns: missing"]),
        ("train.generator_turns", -3, None, ["train.generator_turns: -3", "greater than or equal to 1"]),
        ("teacher.prediction_type", "v", None, ["teacher.prediction_type: 'v'", "epsilon"]),
        ("train.generator_turns", "many", None, ["train.generator_turns: 'many'", "integer"]),
        ("train.generator_turns", 1.5, None, ["train.generator_turns: 1.5"]),
        ("method.normaliser_min", float("nan"), None, ["method.normaliser_min: nan", "finite"]),
        ("method.t_min", 0.99, None, ["method.t_min: 0.99 must be below t_max (0.98)"]),
        ("pairs.count", 0, None, ["train.warm_start.turns: 2000 needs pairs; set pairs.count above 0"]),
        ("train.warm_start.critic_turn", 100, "critic_turns",
         ["train.warm_start.critic_turn: unknown key", "did you mean 'critic_turns'"]),
        ("train.warm_start.turns", -1, None, ["train.warm_start.turns: -1", "greater than or equal to 0", "pairs"]),
        ("method.generator_timestep", 1000, None, ["method.generator_timestep: 1000", "last index; use at most 999"]),
        ("method.regression_loss", "lpips", None, ["method.regression_loss: lpips needs a VGG16; set lpips.weights"]),
        ("method.name", "f_distil", None, ["method.name: 'f_distil'", "(one of dmd, dmd2, f_distill, gdd,"]),
        ("method.steps", 65, None, ["method.steps: 65"]),
        ("teacher.timesteps", 60, None, ["baseline.ddim_steps: 100 steps do not fit on the teacher's 60 noise levels"]),
        ("pairs.steps", 1001, None, ["pairs.steps: 1001 steps do not fit on the teacher's 1000 noise levels; use at"]),
        ("baseline.heun_steps", [9, 1001], None, ["baseline.heun_steps: 1001 steps do not fit on the teacher's 1000"]),
        ("runtime", 3, None, ["runtime: 3 is not allowed; it is a group with the keys device, "]),
        ("registry", {}, "register", ["registry: unknown key", "did you mean 'register'", "register: missing"]),
        ("runtime.thread", 1, "threads", ["runtime.threads: missing", "meaning: CPU threads"]),
        ("data.source", "folder", None, ["data.folder: none is not allowed; source: folder needs a folder"]),
        ("data.source", "webdataset", None, ["data.url: none is not allowed; source: webdataset needs a"]),
        ("data.caption", "a {kind}", None, ["data.caption: 'a {kind}' may contain {name} and no other braces"]),
        ("data.validation", 15, None, ["data.validation: 15 images cannot be divided among the draws", "at least 16"]),
        ("train.validation.draws", 1, None, ["train.validation.draws: 1", "greater than or equal to 2"]),
        ("data.caption", "{name:>900000000}", None, ["data.caption: '{name:>900000000}' may contain {name} and no"]),
        ("data.caption", "{name!r}", None, ["data.caption: '{name!r}' may contain {name} and no other braces"]),
        ("data.caption", "{name.__class__}", None, ["may contain {name} and no other braces"]),
        ("data.caption", "{name[0]} {", None, ["may contain {name} and no other braces"]),
        ("data.caption", "x" * 10_001, None, ["data.caption: 'xxx", "at most 10000 characters"]),
        ("data.test", 3, None, ["data.test: 3 images are too few for baseline.neighbours: 3; use at least 4"]),
        ("data.test", 1, None, ["data.test: 1 images are too few for baseline.neighbours: 3; use at least 4"]),
        ("baseline.neighbours", 1797, None, ["data.test: 300 images are too few for baseline.neighbours: 1797"]),
        ("evaluator.hidden_size", 88, None, ["evaluator.hidden_size: 88 has no whole number of heads; use a mult"]),
        ("teacher.source", "hub", None, ["teacher.hub_id: 'none' is not a hub id; source: hub needs owner/name"]),
    ],
)  # fmt: skip
def test_a_mistake_is_named(key: str, value: object, former: str | None, words: list[str]) -> None:
    with pytest.raises(ConfigError) as e:
        validate(with_value(key, value, former), "params.yaml")
    for word in words:
        assert f"params.yaml: {word}" in str(e.value) or word in str(e.value), f"{word!r} not in {e.value}"


def test_a_generator_of_many_steps_begins_late_enough() -> None:
    raw = with_value("method.generator_timestep", 2)
    raw["method"]["steps"] = 4
    with pytest.raises(ConfigError, match=r"method\.steps: 4 steps do not fit into the indices 0\.\.2"):
        validate(raw, "params.yaml")


@pytest.mark.parametrize(
    ("draws", "neighbours", "allowed"), [(2, 15, True), (2, 16, False), (1, 13, True), (1, 14, False)]
)
def test_neighbours_are_fewer_than_the_images_that_are_compared(draws: int, neighbours: int, allowed: bool) -> None:
    """A jackknife of ten groups leaves out two of 16 images at a time."""
    raw = with_value("baseline.neighbours", neighbours)
    raw["baseline"] |= {"draws": draws, "samples": 16}
    if allowed:
        assert validate(raw, "params.yaml").baseline.neighbours == neighbours
    else:
        with pytest.raises(ConfigError, match=rf"baseline\.neighbours: {neighbours} must be below the number"):
            validate(raw, "params.yaml")


def test_jackknife_groups_of_the_schema_are_those_of_the_statistics() -> None:
    from dmd.config import JACKKNIFE_GROUPS
    from evaluation.statistics.intervals import GROUPS

    assert JACKKNIFE_GROUPS == GROUPS


def test_a_value_in_a_message_is_cut(tmp_path: Path) -> None:
    for value in ("x" * 10**6, list(range(10**5)), 10**5000):
        with pytest.raises(ConfigError) as e:
            validate(with_value("train.precision", value), "params.yaml")
        assert len(str(e.value)) < 1000


@pytest.mark.parametrize(
    ("old", "new"),
    [("innermost", "critic"), ("encoder", "critic:encoder"), ("image", "image"), ("detail", "detail")],
)
def test_the_former_key_of_the_discriminators_input_names_the_new_one(old: str, new: str) -> None:
    with pytest.raises(ConfigError) as e:
        validate(with_value("method.gan.features", old, "trunks"), "params.yaml")
    line = f"features: is no longer used; in place of features: {old}, write trunks: ['{new}']"
    assert str(e.value) == f"params.yaml: method.gan.{line}"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (True, "true is no longer used; write full"),
        (False, "false is no longer used; write none"),
        (3, "3 does not divide processes: 8; use a divisor, full or none"),
    ],
)
def test_a_layout_that_cannot_be_used_is_one_line(value: object, words: str) -> None:
    raw = with_value("train.shard", value)
    raw["train"] |= {"launcher": "accelerate", "processes": 8}
    with pytest.raises(ConfigError) as e:
        validate(raw, "params.yaml")
    assert len(str(e.value).splitlines()) == 1 and words in str(e.value)


def test_only_a_unet_that_is_trained_here_starts_from_a_teacher() -> None:
    raw = with_value("teacher.init_from", "mine")
    raw["teacher"]["network"] = "dit"
    with pytest.raises(ConfigError, match=r"teacher\.init_from: 'mine' needs source: train and network: unet"):
        validate(raw, "params.yaml")


def test_every_mistake_is_one_line() -> None:
    raw = with_value("method.critic_turns", 0)
    raw["baseline"]["sample"] = raw["baseline"].pop("samples")
    with pytest.raises(ConfigError) as e:
        validate(raw, "params.yaml")
    assert len(str(e.value).splitlines()) == 3  # out of range, missing, unknown


def test_the_former_tolerance_is_one_line_that_names_the_new_keys() -> None:
    with pytest.raises(ConfigError) as e:
        validate(with_value("train.validation_tolerance", 0.25, "validation"), "params.yaml")
    assert str(e.value) == (
        "params.yaml: train.validation_tolerance: a share is no longer used; write validation: {images: 125, draws: 8, "
        "tolerance: 1.0}, with the tolerance in standard errors"
    )


@pytest.mark.parametrize(
    "key",
    [
        *("data.folder", "teacher.folder", "teacher.init_from", "evaluator.folder"),
        *("baseline.measured", "method.init_from", "encode.prompts"),
    ],
)
def test_the_former_value_of_none_is_an_error_that_names_the_new_value(key: str) -> None:
    with pytest.raises(ConfigError) as e:
        validate(with_value(key, "zoo/none"), "params.yaml")
    assert str(e.value) == f"params.yaml: {key}: zoo/none is no longer used; write none"


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"data.folder": "no/where"}, "data.folder: 'no/where' is not a folder; give one that exists, or none"),
        ({"data.source": "prompts", "data.folder": "texts"},
         "data.captions: parquet files need the name of the column that holds the prompts"),
        ({"teacher.source": "folder", "teacher.folder": "no/where"},
         "teacher.folder: 'no/where' is not a folder; source: folder needs one that exists"),
        ({"teacher.init_from": "no/where"},
         "teacher.init_from: 'no/where' is not a folder; give a teacher's folder, or none"),
        ({"evaluator.source": "folder"},
         "evaluator.folder: 'none' is not a folder; source: folder needs one that exists"),
        ({"encode.prompts": "texts"}, "encode.prompts: 'texts' is not a file; give one that exists, or none"),
        ({"baseline.measured": "texts"}, "baseline.measured: 'texts' is not a file; give one that exists, or none"),
        ({"method.init_from": "no/where"},
         "method.init_from: 'no/where' is not a folder; give the folder of a generator, or none"),
        ({"method.regression_loss": "lpips", "method.lpips.weights": "no.pth"},
         "method.lpips.weights: 'no.pth' is not a file; regression_loss: lpips needs a VGG16"),
    ],
)  # fmt: skip
def test_a_path_that_does_not_exist_is_one_line_before_a_run(tmp_path: Path, changes: Raw, line: str) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "train.parquet").touch()
    file = Path(shutil.copy(ROOT / "params.yaml", tmp_path))
    set_params(file, changes)
    params = load_params(file)  # the schema itself reads no disk
    with pytest.raises(ConfigError) as e:
        check_paths(params, tmp_path, "params.yaml")
    assert str(e.value) == f"params.yaml: {line}"


def test_a_schedule_that_is_too_short_is_read_from_the_folder_before_a_run(params: Params, tmp_path: Path) -> None:
    (tmp_path / "mine/scheduler").mkdir(parents=True)
    (tmp_path / "mine/scheduler/scheduler_config.json").write_text('{"num_train_timesteps": 60}')
    given = with_values(params, teacher={"source": "folder", "folder": "mine"}, method={"generator_timestep": 60})
    with pytest.raises(ConfigError) as e:
        check_paths(given, tmp_path, "params.yaml")
    assert str(e.value).splitlines() == [
        "params.yaml: baseline.ddim_steps: 100 steps do not fit on the teacher's 60 noise levels; use at most 60",
        "params.yaml: method.generator_timestep: 60 is beyond the teacher's last index; use at most 59",
    ]


def test_paths_are_relative_to_the_project(params: Params, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    given = params.model_copy(update={"data": params.data.model_copy(update={"folder": "mine"})})
    check_paths(given, tmp_path, "params.yaml")
    with pytest.raises(ConfigError):
        check_paths(given, tmp_path / "mine", "params.yaml")


@pytest.mark.parametrize(
    ("text", "words"), [("a: [", "not valid YAML"), ("[]", "contains no groups"), (None, "No such file")]
)
def test_an_unreadable_file_is_one_line(tmp_path: Path, text: str | None, words: str) -> None:
    file = tmp_path / "params.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError, match=words):
        load_params(file)


def test_numbers_are_read_as_dvc_reads_them(tmp_path: Path) -> None:
    """In YAML 1.2, 1e-3 is a number; YAML 1.1 parsers, such as PyYAML, read a string."""
    text = io.StringIO()
    YAML().dump(with_value("method.normaliser_min", 0.125), text)
    file = tmp_path / "params.yaml"
    file.write_text(text.getvalue().replace("0.125", "1e-3"))
    assert load_params(file).method.normaliser_min == 1e-3


def test_params_are_frozen() -> None:
    with pytest.raises(Exception, match="frozen"):
        load_params(ROOT / "params.yaml").train.seed = 1  # type: ignore[misc]
