"""The scaling model: passes, messages and optimizer of a turn, and the layouts that fit a GPU."""

from dataclasses import replace

import pytest
import torch

from dmd.config import Params
from dmd.distillation.cost import turn_costs
from flows.plan import scaling
from flows.plan.devices import Target
from flows.plan.network_config import blank_teacher
from flows.plan.passes import backward_passes, forward_passes
from flows.plan.scaling import HOST, Links, Scaling
from flows.plan.throughput import PassTime
from tests.helpers.params import with_values

META = torch.device("meta")
FREE = Links(float("inf"), float("inf"), 8, 0.0, overlap=False)
SLOW = PassTime(1.0, 2.0, "a second forward, two backward")


def of(params: Params, **train: object) -> Scaling:
    run = with_values(params, train=train)
    return Scaling(blank_teacher(run, None, META), run, turn_costs(run), Target("a100", 1))


def seconds(model: Scaling, links: Links, each: PassTime = SLOW, **train: object) -> float:
    return model.load.seconds(model.params.train.model_copy(update=train), each, links, float("inf"))


def test_free_messages_divide_the_time_of_the_passes(params: Params) -> None:
    model = of(params)
    costs = turn_costs(params)
    passes = sum(c.images * (forward_passes(c.passes) + 2 * backward_passes(c.passes)) for c in costs)
    for processes in (1, 2, 8):
        assert seconds(model, FREE, processes=processes) == pytest.approx(passes / processes)
    for shard in ("full", 2):
        assert seconds(model, FREE, processes=8, shard=shard, accumulate=4) == pytest.approx(passes / 8)


def test_a_ring_sends_each_byte_but_a_share_and_machines_send_at_once() -> None:
    links = Links(bandwidth=100.0, network=10.0, machine=8, latency=0.5, overlap=True)
    assert links.seconds(1000, 1, 4) == 0
    assert links.seconds(1000, 2, 4) == 1000 / 2 / 100 + 4 * 0.5
    assert links.seconds(1000, 8, 1) == 1000 * 7 / 8 / 100 + 3 * 0.5
    assert links.seconds(1000, 16, 1) == 1000 * 15 / 16 / 80 + 4 * 0.5


def test_messages_without_overlap_add_and_with_overlap_hide_behind_the_backward_pass(params: Params) -> None:
    model = of(params)
    links = replace(FREE, bandwidth=2e4)
    turns = {cost: cost.count for cost in model.load.costs}
    gradients = sum(n * model.memory.trained[cost.turn.network] for cost, n in turns.items())
    passes = seconds(model, FREE, processes=2)
    added = seconds(model, links, processes=2) - passes
    assert added == pytest.approx(2 * gradients / 2 / 2e4)
    hidden = seconds(model, replace(links, overlap=True), processes=2) - passes
    assert hidden == pytest.approx(added / model.load.blocks), "the messages of the last block"
    assert seconds(model, links, processes=2, shard="full") - passes > added, "shares gather weights as well"


def test_the_host_bounds_the_time_of_small_networks(params: Params) -> None:
    model = of(params)
    turns = sum(cost.count for cost in model.load.costs)
    rows = [row for row in model.rows((1, 4)) if row is not None]
    assert [row.hours for row in rows] == pytest.approx([turns * HOST / 3600] * 2)
    assert [row.share for row in rows] == pytest.approx([1.0, 0.25])


def test_gpus_divide_every_batch_and_the_memory_chooses_the_layout(
    params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = of(params)
    assert model.batches == [64, 128, 192]
    assert [model.usable(count) for count in (1, 5, 7, 100, 1024)] == [1, 4, 4, 64, 64]
    row = model.row(2)
    assert row is not None and (row.shard, row.accumulate) == ("none", 1)
    one_image = model.memory.per_process(model.params.train.model_copy(update={"processes": 2, "accumulate": 32}))
    monkeypatch.setattr(scaling, "ROOM", (sum(one_image.values()) + 1) / (80 * 2**30))
    tight = model.row(2)
    assert tight is not None and tight.memory <= sum(one_image.values()) + 1
    assert (tight.shard, tight.accumulate) != (row.shard, row.accumulate)
    monkeypatch.setattr(scaling, "ROOM", 1e-9)
    assert model.row(2) is None
