"""A short training that is ended by a signal continues to the same bytes, and a finished one is not repeated."""

import os
import signal
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from dmd.signals import Stopped
from dmd.storage.checkpoint import Scratch
from dmd.training import resumable
from dmd.training.resumable import run_steps

STEPS = 8


class Run:
    """A training of a linear layer that sends itself SIGTERM at a step."""

    def __init__(self, scratch: Scratch, stop_at: int = -1) -> None:
        torch.manual_seed(0)
        self.net = torch.nn.Linear(3, 3)
        self.steps: list[int] = []
        self.stop_at = stop_at
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=0.1)
        run_steps("test", STEPS, {"net": self.net, "optimizer": self.optimizer}, scratch, self.step)

    def step(self, step: int) -> Tensor:
        self.steps.append(step)
        if step == self.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        loss = (self.net(torch.full((2, 3), float(step))) ** 2).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss


@pytest.fixture(autouse=True)
def handlers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(resumable, "CHECKPOINT_EVERY", 3)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_training_that_is_ended_continues_to_the_same_bytes(scratch: Scratch) -> None:
    whole = Run(scratch.part("whole"))
    with pytest.raises(Stopped):
        Run(scratch, stop_at=4)
    resumed = Run(scratch)
    assert resumed.steps == [5, 6, 7], "the signal has saved the step that it falls in"
    assert torch.equal(resumed.net.weight, whole.net.weight) and torch.equal(resumed.net.bias, whole.net.bias)
    again = Run(scratch)
    assert again.steps == [] and torch.equal(again.net.weight, whole.net.weight)
