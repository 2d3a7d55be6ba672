"""The numbers of the turns since the last row of the log, which stay on the device until the row is read."""

import torch
from torch import Tensor

from dmd.distillation.parallel.workers import Workers
from dmd.training.optim import check_finite

MOST_UNREAD = 100  # turns whose losses are not known to be finite, where no row is read for long


class TurnLog:
    """Losses, gradient norms and statistics of turns. Reading them is the only time that the host waits for a turn."""

    def __init__(self, workers: Workers) -> None:
        self.workers = workers
        self.values: dict[str, list[Tensor]] = {}
        self.names: list[str] = []  # of the losses in `checks`
        self.checks: list[Tensor] = []  # (loss, norm of its gradient) of each turn since the last read

    def add(self, loss_name: str, numbers: dict[str, Tensor], loss: Tensor, norm: Tensor) -> None:
        """Add the numbers of a turn by name. loss and norm are checked for finiteness when the log is read."""
        for name, value in numbers.items():
            self.values.setdefault(name, []).append(value)
        self.names.append(loss_name)
        self.checks.append(torch.stack([loss, norm]))
        if len(self.checks) == MOST_UNREAD:
            self._check(torch.cat(self.checks).tolist())
            self.names, self.checks = [], []

    def clear(self) -> None:
        """Drop the numbers; the losses are still checked by the next read."""
        self.values = {}

    def read(self) -> dict[str, float]:
        """Return the mean of each number over turns and processes, and clear the log; nan stands for no value.

        Raises FloatingPointError with network, turn, step and value if a loss or gradient was not finite.
        """
        stacked = [torch.stack(values) for values in self.values.values()]
        sums = torch.stack([v.nansum() for v in stacked])
        counts = torch.stack([(~v.isnan()).double().sum() for v in stacked])
        self.workers.average([sums, counts])
        numbers = torch.cat([*self.checks, sums / counts]).tolist()  # one transfer
        self._check(numbers)
        means = dict(zip(self.values, numbers[-len(self.values) :], strict=True))
        self.values, self.names, self.checks = {}, [], []
        return means

    def _check(self, numbers: list[float]) -> None:
        for i, name in enumerate(self.names):
            check_finite(name, *numbers[2 * i : 2 * i + 2])
