"""The time that a dry run estimates is proportional to turns and inversely proportional to processes."""

import pytest

from dmd.config import Params
from dmd.distillation.cost import turn_costs
from flows.plan.estimate import stage_seconds, time_lines
from flows.plan.throughput import PassTime
from tests.helpers.params import with_values

PASS_TIME = PassTime(forward=0.001, backward=0.002, source="invented")


def test_doubling_the_turns_doubles_the_time(params: Params) -> None:
    warm = params.train.warm_start.model_copy(update={"turns": 0, "critic_turns": 0})
    once = with_values(params, train={"warm_start": warm})
    twice = with_values(once, train={"generator_turns": 2 * once.train.generator_turns})
    seconds = [stage_seconds(p, turn_costs(p), PASS_TIME) for p in (once, twice)]
    assert seconds[1]["train"] == 2 * seconds[0]["train"]
    # A critic turn: generator forward, critic forward and backward. A generator turn adds the two scores to that.
    assert seconds[0]["train"] == pytest.approx(150 * (5 * 64 * 0.004 + 192 * 0.005))
    assert seconds[0]["baseline"] == seconds[1]["baseline"] == pytest.approx(1797 * 3 * 185 * 0.001)
    assert seconds[0]["teacher"] == pytest.approx(2000 * 128 * 0.003)
    guided = with_values(once, guidance={"scale": 2.0})
    assert stage_seconds(guided, turn_costs(guided), PASS_TIME)["pairs"] == 2 * seconds[0]["pairs"]


def test_processes_divide_the_time_but_not_the_cost(params: Params) -> None:
    shared = with_values(params, train={"launcher": "accelerate", "processes": 8})
    seconds = {"train": 3600.0, "evaluate": 3600.0, "teacher": 10.0}
    lines = time_lines(seconds, {"train", "evaluate"}, shared, PASS_TIME)
    assert lines[0] == "time: 2 h; cost: 9 CPU hours" and "train 60 min with 8 processes" in lines[1]
    assert "teacher" not in lines[1]
    alone, eight = (stage_seconds(p, turn_costs(p), PASS_TIME) for p in (params, shared))
    assert eight == alone | {"train": alone["train"] / 8}


def test_keys_that_change_the_speed_of_a_stage_alone_are_named(params: Params) -> None:
    changed = with_values(
        params, train={"compile": "default", "threads": 4}, teacher={"threads": params.runtime.threads}
    )
    for run, end in ((params, "load on the machine"), (changed, "load on the machine, train.threads, train.compile")):
        assert time_lines({"train": 60.0}, {"train"}, run, PASS_TIME)[-1].endswith(end)
