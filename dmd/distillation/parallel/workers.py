"""Divides a batch over processes, and within each process into parts."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor

from dmd.config import TrainConfig
from dmd.errors import ConfigError
from dmd.training.shared_work import SharedWork

T = TypeVar("T")
PRECISIONS = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}  # names of accelerate


@dataclass(frozen=True)
class Workers:
    """The processes that share a batch, and the number of parts whose gradients each of them accumulates."""

    accelerator: Accelerator
    parts: int = 1

    @classmethod
    def start(cls, cfg: TrainConfig, device: torch.device, threads: int) -> "Workers":
        """Join the processes that the launcher started, with the precision of the parameters."""
        accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision=PRECISIONS[cfg.precision])
        torch.set_num_threads(threads)  # accelerate sets another number if there are several CPU processes
        return cls(accelerator, cfg.accumulate)

    @property
    def device(self) -> torch.device:
        """The device of this process."""
        return self.accelerator.device

    def samples(self, batch_size: int) -> list[range]:
        """For each part of this process, the positions of its samples in the whole batch.

        Raises ConfigError if the batch cannot be divided equally.
        """
        processes = self.accelerator.num_processes
        shares = self.shares
        if batch_size % shares:
            raise ConfigError(
                f"a batch of {batch_size} is not divisible by {processes} processes x {self.parts} accumulation steps "
                f"(train.accumulate); use a multiple of {shares}"
            )
        size, first = batch_size // shares, self.accelerator.process_index * self.parts
        return [range((first + part) * size, (first + part + 1) * size) for part in range(self.parts)]

    @property
    def shares(self) -> int:
        """The number of parts of a batch, over all processes."""
        return self.accelerator.num_processes * self.parts

    @property
    def is_main(self) -> bool:
        """Whether this process saves and reports."""
        return self.accelerator.is_main_process

    @property
    def shared_work(self) -> SharedWork:
        """Return the same processes as those that share work without gradients."""
        return SharedWork(self.accelerator.process_index, self.accelerator.num_processes)

    def from_main(self, compute: Callable[[], T]) -> T:
        """Call `compute` in the main process and return its result in every process."""
        box: list[Any] = [compute() if self.is_main else None]
        broadcast_object_list(box)
        return box[0]

    def any(self, flag: bool) -> bool:
        """Whether `flag` is true in any process. The call is collective."""
        mean = torch.tensor([float(flag)], device=self.device)
        self.average([mean])
        return mean.item() > 0

    def gather(self, tensor: Tensor) -> Tensor:
        """The tensors [n, ...] of all processes in the order of their samples, [N, ...]. The call is collective."""
        return self.accelerator.gather(tensor) if self.accelerator.num_processes > 1 else tensor  # type: ignore[return-value]

    def average(self, tensors: list[Tensor]) -> None:
        """Replace tensors by their mean over the processes, in place."""
        if self.accelerator.num_processes == 1 or not tensors:
            return
        flat = torch.cat([t.flatten() for t in tensors])
        flat = self.accelerator.reduce(flat, "mean")  # one message instead of one per tensor
        for tensor, mean in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):  # type: ignore[union-attr]
            tensor.copy_(mean.view_as(tensor))
