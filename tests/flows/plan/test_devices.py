"""Estimates for GPUs that this machine does not have."""

import json

import pytest

from benchmarks.efficiency import efficiency
from dmd.config import Params
from dmd.errors import ConfigError
from flows.plan.devices import DEVICES, EFFICIENCY, PUBLISHED, Target, pass_time, read_target, spread
from flows.plan.estimate import LONGEST_ON_CPU, memory_lines, time_lines
from flows.plan.throughput import PassTime
from tests.helpers.params import with_values
from tests.helpers.projects import ROOT

TARGETS = [("h100x8", ("h100", 8)), ("RTX4090", ("rtx4090", 1)), ("a100-40x2", ("a100-40", 2))]


@pytest.mark.parametrize(("text", "target"), TARGETS)
def test_a_target_is_a_device_and_a_count(text: str, target: tuple[str, int]) -> None:
    assert read_target(text) == Target(*target)


@pytest.mark.parametrize("text", ["", "h101", "h100x0", "h100x", "x8", "h100x99999", "h100x8x8"])
def test_another_word_is_refused_with_the_devices(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--on .*: write DEVICE or DEVICExCOUNT, such as h100x8; devices: t4, "):
        read_target(text)


def test_train_gets_a_process_for_each_gpu(params: Params) -> None:
    eight = spread(params, Target("h100", 8)).train
    assert (eight.processes, eight.launcher) == (8, "accelerate")
    shared = with_values(params, train={"processes": 4, "launcher": "torchrun"})
    assert spread(shared, Target("h100", 2)).train.launcher == "torchrun"
    one = spread(shared, Target("h100", 1)).train
    assert (one.processes, one.launcher) == (1, "python")
    with pytest.raises(
        ConfigError, match=r"train\.batch_size 64 is not a multiple of 7 GPUs x train\.accumulate 1.*=63"
    ):
        spread(params, Target("h100", 7))


def test_a_pass_takes_its_operations_over_the_share_of_the_peak(params: Params) -> None:
    half, single = (with_values(params, train={"precision": p}) for p in ("bf16", "fp32"))
    time = pass_time(10**12, half, Target("a100", 4), "pixels")
    assert time.forward == pytest.approx(1 / (312 * EFFICIENCY["pixels"])) and time.backward == 2 * time.forward
    assert not time.is_bound and "DMD2 on ImageNet" in time.source
    bound = pass_time(10**12, single, Target("a100", 4), "pixels")
    assert bound.is_bound and bound.forward == pytest.approx(1 / 312)
    (line, *_) = time_lines({"train": 7200.0}, {"train"}, single, bound, Target("a100", 1))
    assert line == "time: at least 2 h; cost: at least 2 A100 hours"


def test_memory_is_compared_with_that_of_the_device(params: Params) -> None:
    card = Target("rtx4090", 1)
    assert memory_lines({"critic": 12 * 2**30}, params, card)[0].endswith("per GPU: 12 GiB of 24 GiB")
    assert "30 GiB, more than RTX4090's 24 GiB: raise" in memory_lines({"critic": 30 * 2**30}, params, card)[0]


def test_years_on_a_cpu_are_not_an_estimate(params: Params) -> None:
    cpu = with_values(params, runtime={"device": "cpu"})
    lines = time_lines({"train": LONGEST_ON_CPU + 1.0}, {"train"}, cpu, PassTime(1, 2, "measured"))
    assert lines[0] == "time: too long for this CPU; --dry-run --on h100x8 estimates it for GPUs" and len(lines) == 2


def test_shares_of_the_peak_are_those_of_the_record() -> None:
    assert json.loads((ROOT / "records" / "efficiency.json").read_text()) == EFFICIENCY
    assert set(EFFICIENCY) == set(PUBLISHED) and all(d.peak > 0 and d.memory > 0 for d in DEVICES.values())


@pytest.mark.slow
@pytest.mark.parametrize("kind", PUBLISHED)
def test_shares_of_the_peak_follow_from_the_presets(kind: str) -> None:
    assert efficiency(ROOT, PUBLISHED[kind]) == pytest.approx(EFFICIENCY[kind], abs=5e-4)
