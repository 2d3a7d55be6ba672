"""What a distillation method is: which networks take a turn at a step, and the loss of a turn.

A step is one critic turn; budgets count generator turns. The trainer knows nothing else of a method.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from dmd.config import MethodConfig
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


class Method(ABC):
    """Turns and losses of one distillation method."""

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

    def turns(self, step: int) -> tuple[str, ...]:
        """The networks that learn at this step, in order (two time-scale update by frequency)."""
        return ("critic", "generator") if (step + 1) % self.cfg.critic_turns == 0 else ("critic",)

    @abstractmethod
    def loss(self, turn: str, nets: Networks, z: Tensor, cond: Cond, rng: torch.Generator) -> dict[str, Tensor]:
        """Scalars of a turn by name; "total" is the loss to differentiate. z [B, C, H, W] is unit noise."""
