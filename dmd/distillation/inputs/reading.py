"""Reads training images and teacher pairs ahead of the turns that draw them, so that no turn waits for disk or copy."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from dmd.training.random_source import RandomSource

Part = tuple[Tensor | None, ...]  # what a turn draws for some samples of its batch


class Input(Protocol):
    """Something that turns draw from: training images or teacher pairs."""

    @property
    def staged(self) -> dict[object, Any]:
        """Parts on the device of the networks, by turn and samples."""
        ...

    @property
    def device(self) -> torch.device:
        """The device that reads."""
        ...

    def read(self, rng: RandomSource) -> Part:
        """Read what a turn draws with this random source."""
        ...


class ReadAhead:
    """Reads the input of the next turn in a thread while another turn runs; for a GPU, into pinned memory."""

    def __init__(self, data: Input, sources: Iterator[list[RandomSource]], device: torch.device) -> None:
        """sources: for each turn that draws from the input, in order, the random source of each of its parts."""
        self.data, self.device = data, device
        self.sources = iter(()) if data.device == device and device.type != "cpu" else sources
        self.pool = ThreadPoolExecutor(1, "read-ahead")
        self.reading: list[tuple[RandomSource, Future[Part]]] = []

    def __enter__(self) -> Self:
        self._read_next()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.pool.shutdown(cancel_futures=True)
        self.data.staged.clear()

    def before(self, turn: tuple[int, int, str]) -> None:
        """Start to copy the input of a turn (seed, step, network) to the device, if it draws any, and read the next.

        The device copies it in the order of its work; the host waits only if the thread has not read it yet.
        """
        if not self.reading or self.reading[0][0].turn != turn:
            return
        self.data.staged.clear()
        for rng, part in self.reading:
            on_device = tuple(v if v is None else v.to(self.device, non_blocking=True) for v in part.result())
            self.data.staged[rng.turn, rng.samples] = on_device
        self._read_next()

    def _read_next(self) -> None:
        self.reading = [(rng, self.pool.submit(self._read, rng)) for rng in next(self.sources, [])]

    def _read(self, rng: RandomSource) -> Part:
        part = self.data.read(rng)
        if self.device.type == "cpu" or not torch.accelerator.is_available():
            return part
        return tuple(v if v is None else v.pin_memory() for v in part)
