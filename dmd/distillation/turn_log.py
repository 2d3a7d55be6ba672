"""The numbers of the turns since the last row of the log, kept on the device until the row is read."""

import torch
from torch import Tensor

from dmd.distillation.divergence.signs import check_spread
from dmd.distillation.parallel.workers import Workers
from dmd.training.optim import check_finite

MOST_UNREAD = 100  # turns after which losses are checked although no row has been read


class TurnLog:
    """Losses, gradient norms and statistics of turns. The host waits for the device only when they are read."""

    def __init__(self, workers: Workers, min_spread: float) -> None:
        """min_spread: images whose `batch_spread` is smaller count as all equal."""
        self.workers, self.min_spread = workers, min_spread
        self.values: dict[str, list[Tensor]] = {}
        self.names: list[str] = []  # of the losses in `checks`
        self.checks: list[Tensor] = []  # (loss, norm of its gradient, spread) of each turn since the last read

    def add(self, loss_name: str, numbers: dict[str, Tensor], loss: Tensor, norm: Tensor, spread: Tensor) -> None:
        """Add the numbers of a turn by name. loss, norm and spread of the images are checked when the log is read."""
        for name, value in numbers.items():
            self.values.setdefault(name, []).append(value)
        self.names.append(loss_name)
        self.checks.append(torch.stack([loss, norm, spread]))
        if len(self.checks) == MOST_UNREAD:
            self.check()

    def check(self) -> None:
        """Check the losses since the last read or check. Raises FloatingPointError as `read` does."""
        if self.checks:
            self.workers.average(self.checks)
            self._check(torch.cat(self.checks).tolist())
        self.names, self.checks = [], []

    def clear(self) -> None:
        """Drop the numbers; the losses are still checked by the next read."""
        self.values = {}

    def read(self) -> dict[str, float]:
        """Return the mean of each number over turns and processes, and clear the log; nan stands for no value.

        Raises FloatingPointError with network, turn, step and value in every process if a loss, gradient or image of
        any process was not finite, or if generated images were all equal.
        """
        stacked = [torch.stack(values) for values in self.values.values()]
        sums = torch.stack([v.nansum() for v in stacked])
        counts = torch.stack([(~v.isnan()).double().sum() for v in stacked])
        self.workers.average([sums, counts, *self.checks])
        numbers = torch.cat([*self.checks, sums / counts]).tolist()  # one transfer
        self._check(numbers)
        means = dict(zip(self.values, numbers[-len(self.values) :], strict=True))
        self.values, self.names, self.checks = {}, [], []
        return means

    def _check(self, numbers: list[float]) -> None:
        for i, name in enumerate(self.names):
            loss, norm, spread = numbers[3 * i : 3 * i + 3]
            check_finite(name, loss, norm)
            check_spread(name, spread, self.min_spread)
