"""Measures of an earlier run are reused only if everything that they depend on is the same."""

import json
from pathlib import Path
from typing import Any

import pytest

from dmd.config import BaselineConfig, Params
from dmd.errors import ConfigError, EvaluatorError
from evaluation.evaluator.reuse import find_reusable
from evaluation.metrics.schema import INDEPENDENT_PAIRS, Baseline, ExtractorFacts, Provenance, write_model
from flows.pipeline.changes import change_params
from flows.plan.estimate import stage_seconds
from flows.plan.throughput import PassTime
from tests.helpers.reports import NAMES, measures, real_measures

PROVENANCE = Provenance(
    reference_sha256="1" * 64,
    reference_images=60_000,
    held_out_sha256="2" * 64,
    conditions_sha256="3" * 64,
    teacher_sha256="4" * 64,
    guidance_scale=1.0,
    neighbours=3,
    extractors={name: ExtractorFacts(sha256="0" * 64, dimensions=64, resize="none") for name in NAMES},
    skipped={},
)


@pytest.fixture
def cfg(params: Params, tmp_path: Path) -> BaselineConfig:
    """Params with the settings of an earlier run, whose file `measured` names."""
    record = Baseline(
        teachers={"ddim_10": measures(10, 3.6, 0.1), "heun_25": measures(49, 1.0, 0.1)},
        real=real_measures(NAMES, clip_score=31.0, accuracy=0.98),
        best_teacher=dict.fromkeys(NAMES, "heun_25"),
        provenance=PROVENANCE,
        fd_replicates={name: {key: [fd, fd] for key in NAMES} for name, fd in (("ddim_10", 3.6), ("heun_25", 1.0))},
        taken_over=[],
    )
    write_model(record, tmp_path / "baseline.json")
    same = {"measured": str(tmp_path / "baseline.json"), "samples": 1797, "draws": 4, "seed": 0}
    return params.baseline.model_copy(update=same)


def test_only_the_requested_samplers_are_reused(cfg: BaselineConfig) -> None:
    reusable = find_reusable(cfg, ["ddim_10", "ddim_25"], PROVENANCE)
    assert reusable.differences == "" and list(reusable.teachers) == ["ddim_10"]
    assert reusable.teachers["ddim_10"][0] == measures(10, 3.6, 0.1)
    assert reusable.teachers["ddim_10"][1] == {key: [3.6, 3.6] for key in NAMES}


@pytest.mark.parametrize(
    "change",
    [
        {"reference_sha256": "9" * 64}, {"reference_images": 55_000}, {"held_out_sha256": "9" * 64},
        {"conditions_sha256": "9" * 64}, {"teacher_sha256": "9" * 64}, {"guidance_scale": 1.5}, {"neighbours": 5},
        {"made_by": "ddim_100"}, {"teacher_precision": "bf16"},
        {"extractors": {NAMES[0]: PROVENANCE.extractors[NAMES[0]]}},
        {"extractors": dict.fromkeys(NAMES, ExtractorFacts(sha256="9" * 64, dimensions=64, resize="none"))},
    ],
)  # fmt: skip
def test_a_difference_in_provenance_is_named_and_prevents_reuse(cfg: BaselineConfig, change: dict[str, Any]) -> None:
    reusable = find_reusable(cfg, ["ddim_10"], PROVENANCE.model_copy(update=change))
    assert reusable.teachers == {} and reusable.differences == next(iter(change))


@pytest.mark.parametrize("change", [{"samples": 1000}, {"draws": 3}, {"seed": 1}])
def test_another_plan_prevents_reuse(cfg: BaselineConfig, change: dict[str, int]) -> None:
    reusable = find_reusable(cfg.model_copy(update=change), ["ddim_10"], PROVENANCE)
    assert reusable.teachers == {} and reusable.differences == next(iter(change))


def test_values_of_a_measure_that_is_new_or_was_defined_otherwise_are_left_blank(cfg: BaselineConfig) -> None:
    """KID over all pairs cannot stand beside KID over independent pairs; FD, which takes hours, is reused."""
    file = Path(cfg.measured)
    record = json.loads(file.read_text())
    for measures_ in (record["teachers"]["ddim_10"], record["teachers"]["ddim_10"]["interval"]):
        del measures_["fd_matched"]
    file.write_text(json.dumps(record))
    now = PROVENANCE.model_copy(update={"kernel_pairs": INDEPENDENT_PAIRS})
    reusable = find_reusable(cfg, ["ddim_10"], now)
    teacher, _ = reusable.teachers["ddim_10"]
    assert reusable.differences == "" and teacher.values("fd") == measures(10, 3.6, 0.1).values("fd")
    for name in ("kid", "fd_matched"):
        assert teacher.values(name) == {} == teacher.interval.values(name)
    assert find_reusable(cfg, ["ddim_10"], PROVENANCE).teachers["ddim_10"][0].values("kid")
    write_model(teacher, file)  # a file that is written has every measure, blank or not


def test_a_missing_extractor_does_not_prevent_reuse(cfg: BaselineConfig) -> None:
    assert find_reusable(cfg, ["ddim_10"], PROVENANCE.model_copy(update={"skipped": {"clip": "not at hand"}})).teachers


def test_a_file_of_another_kind_is_one_line(cfg: BaselineConfig, params: Params) -> None:
    Path(cfg.measured).write_text("{}")
    with pytest.raises(EvaluatorError, match=r"baseline\.measured: \S+ is not a baseline\.json") as e:
        find_reusable(cfg, ["ddim_10"], PROVENANCE)
    assert "\n" not in str(e.value)
    with pytest.raises(ConfigError, match=r"here: baseline\.measured: 'nowhere\.json' is not a file"):
        change_params(params.model_dump(by_alias=True), {"baseline.measured": "nowhere.json"}, "here", Path())


def test_the_estimate_leaves_out_reused_samplers(cfg: BaselineConfig, params: Params) -> None:
    pass_time = PassTime(forward=1.0, backward=2.0, source="")
    baseline = cfg.model_copy(update={"ddim_steps": [10, 25], "heun_steps": [25]})
    run = params.model_copy(update={"baseline": baseline})
    assert stage_seconds(run, [], pass_time)["baseline"] == 1797 * 4 * 25
