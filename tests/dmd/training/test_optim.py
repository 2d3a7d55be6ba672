"""The optimizer step: learning rates, gradient clipping and loss scaling in fp16."""

import pytest
import torch

from dmd.training.optim import apply_gradients, backward, learning_rate, optimizer_step


def test_the_learning_rate_warms_up_and_decays() -> None:
    rates = [learning_rate(1.0, t, 4, 100, "cosine") for t in range(101)]
    assert (
        rates[0] == pytest.approx(0.2) and rates[100] == pytest.approx(0, abs=1e-12) and max(rates) == max(rates[3:6])
    )
    assert [learning_rate(1.0, t, 0, 100, "constant") for t in (0, 50, 99)] == [1.0, 1.0, 1.0]


def test_the_gradient_is_clipped_per_network() -> None:
    net = torch.nn.Linear(4, 1, bias=False)
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    before = net.weight.detach().clone()
    norm = optimizer_step(optimizer, net, 1000 * net(torch.ones(1, 4)).sum(), 1.0, 0.5, "loss")
    assert norm.item() == pytest.approx(2000) and (net.weight - before).norm().item() == pytest.approx(0.5, rel=1e-4)


def test_fp16_skips_a_step_whose_scaled_loss_overflows() -> None:
    """The weights do not change, the scale is halved, and the next step uses the true gradient."""
    net = torch.nn.Linear(1, 1, bias=False)
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=100)
    start = net.weight.item()
    backward(net.weight.sum() * 3e38, "loss", scaler)  # finite, but its scaled value is not
    apply_gradients(optimizer, net, 0.5, 10.0, "loss", scaler)
    assert net.weight.item() == start and scaler.get_scale() == 2.0
    backward(net.weight.sum() * 3.0, "loss", scaler)
    assert apply_gradients(optimizer, net, 0.5, 10.0, "loss", scaler).item() == pytest.approx(3.0)
    assert net.weight.item() == pytest.approx(start - 1.5)
