"""The roofline counts a block's operations and bytes, and its floor lies below the time that the block takes."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks import roofline
from benchmarks.block import Size, new_block

TINY = Size(8, (8, 8), 16, critic_turns=2)


def test_a_block_takes_longer_than_its_floor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(roofline, "SIZES", {"tiny": TINY})
    monkeypatch.setattr(roofline, "MATRIX", {"cpu": 256})
    monkeypatch.setattr(roofline, "CONVOLUTIONS", ((16, 8, 16),))
    monkeypatch.setattr(roofline, "COPIED", {"cpu": 2**20})
    out = tmp_path / "roofline.json"
    monkeypatch.setattr("sys.argv", ["roofline", "--device", "cpu", "--repeats", "1", "--out", str(out)])
    roofline.main()
    block = json.loads(out.read_text())["blocks"]["tiny"]
    assert 0 < block["share of the floor"] < 1
    assert block["GB that its operations read and write"] > block["GB that must move"] > 0


def test_bytes_of_an_operation_are_those_of_its_inputs_and_results() -> None:
    x = torch.zeros(10)
    with roofline.Moved() as moved:
        y = x + x  # two inputs and a result
        y.view(2, 5)  # a view moves nothing
        y.add_(1.0)  # one input and a result, in place
    assert moved.bytes == 40 * (3 + 2)


def test_bytes_of_weights_grow_with_the_critic_turns() -> None:
    state, _ = new_block(TINY, "dmd2", 1)
    weights = sum(p.numel() for p in state.nets.generator.parameters())
    critic = sum(p.numel() for p in state.nets.critic.parameters())
    one, two = (roofline.compulsory_bytes(state, turns) for turns in (1, 2))
    assert two - one == 4 * (weights + 8 * critic)
