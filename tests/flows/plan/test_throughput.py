"""Seconds and floating-point operations of a pass."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from dmd.config import Params
from dmd.teachers.teacher import Teacher
from flows.plan.network_config import blank_teacher
from flows.plan.throughput import convolution_speed, count_operations, measure_pass_time
from tests.helpers.networks import CPU

META = torch.device("meta")


def test_a_small_network_is_timed_with_the_threads_of_a_stage_and_a_large_one_is_estimated(
    params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = torch.get_num_threads()
    devices: list[torch.device] = []

    def blank(device: torch.device) -> Teacher:
        devices.append(device)
        return blank_teacher(params, None, device)

    runtime = params.runtime.model_copy(update={"device": "cpu"})
    small = measure_pass_time(blank, 64, "fp32", runtime)
    assert 0 < small.forward < 1 and 0 < small.backward < 1
    assert "1 CPU thread" in small.source and devices == [META, CPU]
    monkeypatch.setattr("flows.plan.throughput.LARGE", 1.0)
    large = measure_pass_time(blank, 64, "fp32", runtime)
    assert devices[2:] == [META] and large.backward == pytest.approx(2 * large.forward) and "GFLOP" in large.source
    assert torch.get_num_threads() == threads and convolution_speed(CPU, "fp32", 1) > 0


def test_operations_are_counted_over_the_layers(params: Params) -> None:
    """A convolution has two operations per weight and pixel."""
    teacher = blank_teacher(params, None, META)
    conv = nn.Conv2d(1, 1, 3, padding=1, bias=False, device="meta")

    class Alone(nn.Module):
        def forward(self, x: Any, _t: Any, class_labels: Any) -> Any:
            return type("Out", (), {"sample": conv(x)})

    denoiser = type(teacher.denoiser)(Alone(), teacher.denoiser.process, teacher.denoiser.parametrisation)
    denoiser.conv = conv
    assert count_operations(replace(teacher, denoiser=denoiser)) == 2 * 9 * 64
