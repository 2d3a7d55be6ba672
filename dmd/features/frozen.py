"""Frozen networks whose activations at several named levels describe an image."""

import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Self

import torch
from torch import Tensor, nn

MIN_SIDE = 2  # pixels: activations of one pixel are pooled, not spatial

Run = Callable[[Tensor], Any]


@dataclass(frozen=True)
class Level:
    """A module of a network, and the function that turns its output into activations [B, C, H, W]."""

    name: str
    module: nn.Module
    to_grid: Callable[[Any], Tensor] = lambda output: output


class _StopForward(Exception):
    """Raised by a hook to stop the forward pass after the last level."""


class FrozenNetwork(nn.Module):
    """Images [B, 1 or 3, H, W] in [-1, 1] -> activations [B, C, H, W] of each level, from the first layer to the last.

    The weights are frozen and the network stays in eval mode. Gradients flow to the images.
    """

    def __init__(
        self,
        net: nn.Module,
        architecture: str,
        prepare: Callable[[Tensor], Tensor],
        levels: Sequence[Level],
        run: Run | None = None,
    ) -> None:
        """run: the call of `net` on prepared images that passes through every level; by default its forward pass."""
        super().__init__()
        self.architecture = architecture
        self.net = net.requires_grad_(False)
        self.prepare, self.levels, self.run = prepare, tuple(levels), run or net
        self.train(False)

    @property
    def level_names(self) -> tuple[str, ...]:
        """The name of each level: that of its module."""
        return tuple(level.name for level in self.levels)

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode, whatever the mode of the module that holds this one."""
        return super().train(False)

    def forward(self, x: Tensor) -> list[Tensor]:
        return record(self.levels, self.run, self.prepare(x))


def record(levels: Sequence[Level], run: Run, x: Tensor) -> list[Tensor]:
    """The activations of each level in a call of `run` on x, which stops after the last of them."""
    outputs: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
        outputs.append(levels[len(outputs)].to_grid(output))
        if len(outputs) == len(levels):
            raise _StopForward

    handles = [level.module.register_forward_hook(keep) for level in levels]
    try:
        with contextlib.suppress(_StopForward):
            run(x)
    finally:
        for handle in handles:
            handle.remove()
    return outputs


@torch.no_grad()
def resolution_levels(candidates: Iterable[tuple[str, nn.Module]], run: Run, x: Tensor) -> list[Level]:
    """The last candidate at each resolution of a convolutional network, for prepared images x [B, 3, H, W]."""
    sides: list[tuple[Level, int]] = []

    def note(level: Level) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.ndim == 4:
                sides.append((level, min(output.shape[-2:])))

        return hook

    levels = [Level(name, module) for name, module in candidates]
    handles = [level.module.register_forward_hook(note(level)) for level in levels]
    try:
        run(x)
    finally:
        for handle in handles:
            handle.remove()
    groups = [list(group) for _, group in groupby(sides, key=lambda entry: entry[1])]
    return [group[-1][0] for group in groups if group[-1][1] >= MIN_SIDE]
