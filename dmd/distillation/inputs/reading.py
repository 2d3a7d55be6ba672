"""Reads training images ahead of the turns that draw them, so that no turn waits for a disk or for a copy."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

import torch

from dmd.distillation.inputs.batches import Drawn, TrainingImages
from dmd.training.random_source import RandomSource


class ReadAhead:
    """While one turn runs, a thread reads the images of the next turn that draws some, into pinned memory for a GPU."""

    def __init__(self, data: TrainingImages, sources: Iterator[list[RandomSource]], device: torch.device) -> None:
        """sources: for each turn that draws images, in order, the random source of each of its parts."""
        self.data, self.device = data, device
        self.sources = iter(()) if data.device == device and device.type != "cpu" else sources
        self.pool = ThreadPoolExecutor(1, "read-ahead")
        self.reading: list[tuple[RandomSource, Future[Drawn]]] = []

    def __enter__(self) -> Self:
        self._read_next()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.pool.shutdown(cancel_futures=True)
        self.data.staged.clear()

    def before(self, turn: tuple[int, int, str]) -> None:
        """Start to copy the images of a turn (seed, step, network) to the device, if it draws any, and read the next.

        The device copies them in the order of its work; the host waits only if the thread has not read them yet.
        """
        if not self.reading or self.reading[0][0].turn != turn:
            return
        self.data.staged.clear()
        for rng, drawn in self.reading:
            x, labels = (v.to(self.device, non_blocking=True) for v in drawn.result())
            self.data.staged[rng.turn, rng.samples] = x, labels
        self._read_next()

    def _read_next(self) -> None:
        self.reading = [(rng, self.pool.submit(self._read, rng)) for rng in next(self.sources, [])]

    def _read(self, rng: RandomSource) -> Drawn:
        x, labels = self.data.read(rng)
        if self.device.type == "cpu" or not torch.accelerator.is_available():
            return x, labels
        return x.pin_memory(), labels.pin_memory()
