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
    loss = net.weight.sum() * 3e38  # finite, but its scaled value is not
    backward(loss, scaler)
    apply_gradients(optimizer, net, 0.5, 10.0, loss.detach(), scaler)
    assert net.weight.item() == start and scaler.get_scale() == 2.0
    loss = net.weight.sum() * 3.0
    backward(loss, scaler)
    assert apply_gradients(optimizer, net, 0.5, 10.0, loss.detach(), scaler).item() == pytest.approx(3.0)
    assert net.weight.item() == pytest.approx(start - 1.5)


@pytest.mark.parametrize(("loss", "factor"), [(float("nan"), 1.0), (float("inf"), 1.0), (1.0, float("inf"))])
def test_a_step_that_is_not_finite_changes_neither_weights_nor_moments(loss: float, factor: float) -> None:
    """loss: value of the loss; factor: of its gradient. The next step is that of a run without the bad one."""
    nets = [torch.nn.Linear(3, 1, bias=False) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    for net in nets:
        optimizer = torch.optim.AdamW(net.parameters(), fused=True)
        for is_bad in (False, True, False) if net is nets[1] else (False, False):
            net.weight.grad = torch.full((1, 3), factor if is_bad else 0.5)
            apply_gradients(optimizer, net, 0.1, 1.0, torch.tensor(loss if is_bad else 1.0))
    assert torch.equal(nets[0].weight, nets[1].weight) and nets[0].weight.isfinite().all()


@pytest.mark.parametrize(
    ("scale", "message"), [(float("nan"), "loss of x is nan"), (1e38, "the gradient of loss of x has norm inf")]
)
def test_an_optimizer_step_that_is_not_finite_is_an_error_before_any_weight_changes(scale: float, message: str) -> None:
    net = torch.nn.Linear(8, 1, bias=False)
    before = net.weight.detach().clone()
    optimizer = torch.optim.AdamW(net.parameters(), fused=True)
    with pytest.raises(FloatingPointError, match=message):
        optimizer_step(
            optimizer,
            net,
            (net.weight * 0 + net.weight.detach() * 0).sum() + scale * (net.weight - before).sum(),
            0.1,
            1.0,
            "loss of x",
        )
    assert torch.equal(net.weight, before)
