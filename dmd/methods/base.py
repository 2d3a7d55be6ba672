"""What a distillation method is: phases of training, each of which says who learns when, and from which loss.

A step is one critic turn (in a phase without critic turns, one generator turn); budgets count generator turns. The
trainer knows nothing else of a method.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dmd.config import MethodConfig, TrainConfig
from dmd.denoisers import Cond, Denoiser
from dmd.pairs import Pairs


@dataclass(frozen=True)
class Networks:
    """teacher is frozen; generator and critic start as its copies."""

    teacher: Denoiser
    generator: Denoiser
    critic: Denoiser

    def of_turn(self, turn: str) -> Denoiser:
        """The network that a turn trains has the turn's name."""
        return {"generator": self.generator, "critic": self.critic}[turn]


# (turn, networks, z, cond, rng) -> scalars by name; "total" is the loss to differentiate. z [B, C, H, W] is unit noise.
Loss = Callable[[str, Networks, Tensor, Cond, torch.Generator], dict[str, Tensor]]


@dataclass(frozen=True)
class Phase:
    """A stretch of training. Optimizers and the average's window start afresh with each."""

    name: str
    steps: int
    every: Mapping[str, int]  # by network: it learns at every so many steps; one that is not named does not learn
    loss: Loss
    batch_size: int
    lr: Mapping[str, float]  # by network
    lr_schedule: Literal["constant", "cosine"]

    def turns(self, step: int) -> tuple[str, ...]:
        """The networks that learn at this step of the phase, in order (two time-scale update by frequency)."""
        return tuple(n for n in ("critic", "generator") if n in self.every and (step + 1) % self.every[n] == 0)

    @property
    def generator_turns(self) -> int:
        return self.steps // self.every["generator"] if "generator" in self.every else 0


class Method(ABC):
    """Phases, turns and losses of one distillation method."""

    def __init__(self, cfg: MethodConfig, timesteps: int, pairs: Pairs) -> None:
        """timesteps is T of the teacher's grid; pairs may be empty."""
        self.cfg = cfg
        self.timesteps = timesteps
        self.pairs = pairs
        self.generator_timestep = timesteps - 1 if cfg.generator_timestep == "last" else cfg.generator_timestep
        if self.generator_timestep >= timesteps:
            raise ValueError(
                f"method.generator_timestep: {self.generator_timestep} lies beyond the teacher's last index, "
                f"{timesteps - 1}"
            )

    @abstractmethod
    def phases(self, cfg: TrainConfig) -> tuple[Phase, ...]:
        """The run from its start to its end."""
