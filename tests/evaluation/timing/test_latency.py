"""Latency grows with the number of network passes."""

import pytest
import torch
from torch import Tensor

from dmd.config import Params
from dmd.samplers.sampler import Sampler
from evaluation.timing.latency import time_samplers
from tests.helpers.networks import CPU


def test_more_passes_take_more_time(params: Params) -> None:
    weight = torch.randn(400, 400)

    def passes(n: int) -> Sampler:
        def make(z: Tensor, cond: Tensor | None) -> Tensor:
            for _ in range(n):
                weight @ weight
            return z

        return Sampler(f"ddim_{n}" if n > 1 else "student", n, (1, 8, 8), False, CPU, make)

    timing = time_samplers(passes(1), [passes(30)], torch.zeros(4, dtype=torch.long), params.evaluate)
    assert timing.speedup["ddim_30"] > 5
    ratio = timing.teachers["ddim_30"].seconds_per_image / timing.student.seconds_per_image
    assert timing.speedup["ddim_30"] == pytest.approx(ratio)
