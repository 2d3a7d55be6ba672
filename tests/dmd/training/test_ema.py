"""The exponential moving average of weights, and its half-life in images."""

import pytest
import torch

from dmd.training.ema import decay_from_half_life, update_ema


def test_the_average_equals_its_closed_form() -> None:
    """ema_n = d^n ema_0 + (1 - d) sum d^(n-i) w_i."""
    net, ema = torch.nn.Linear(1, 1, bias=False).double(), torch.nn.Linear(1, 1, bias=False).double()
    with torch.no_grad():
        ema.weight.fill_(5.0)
        for value in (1.0, 2.0, 3.0):
            net.weight.fill_(value)
            update_ema(ema, net, 0.9)
    assert ema.weight.item() == pytest.approx(0.9**3 * 5 + 0.1 * (0.81 * 1 + 0.9 * 2 + 3), abs=1e-12)


def test_the_half_life_is_counted_in_images() -> None:
    """After one half-life of images, half of the old average is left, whatever the number of turns."""
    for images in (1, 64, 500):
        assert decay_from_half_life(4000, images) ** (4000 / images) == pytest.approx(0.5)


def test_buffers_are_copied_unless_both_networks_share_them() -> None:
    net, ema = torch.nn.BatchNorm1d(2), torch.nn.BatchNorm1d(2)
    net.running_mean = torch.ones(2)
    ema.running_var = net.running_var
    assert net.running_var is not None and ema.running_mean is not None
    version = net.running_var._version
    update_ema(ema, net, 0.9)
    assert ema.running_mean.tolist() == [1.0, 1.0] and net.running_var._version == version
