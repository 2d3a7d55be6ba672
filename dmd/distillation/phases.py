"""Phases and turns: the order of the optimizer steps, each with its network, batch and loss.

A phase counts steps. A step is one critic turn, or one generator turn in a phase without critic turns.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor

from dmd.diffusion.denoiser import Cond
from dmd.distillation.networks import Networks
from dmd.training.random_source import RandomSource

# (name of the turn, networks, z, cond, rng) -> scalars by name; "total" is the one to differentiate. z is unit
# noise [B, *noise_shape], cond [B] or None.
Loss = Callable[[str, Networks, Tensor, Cond, RandomSource], dict[str, Tensor]]
Values = dict[str, Tensor]  # values of the samples of a batch, [B, ...], by name
Draw = Callable[[range], tuple[Tensor, Cond]]  # positions of samples -> their z and cond


class BatchLoss(Protocol):
    """A loss that compares all samples of a batch, which is divided over processes and parts."""

    def part(
        self, name: str, nets: Networks, z: Tensor, cond: Cond, rng: RandomSource
    ) -> tuple[dict[str, Tensor], Values]:
        """Scalars of a part alone, with their "total", and the values of its samples that `whole` compares."""
        ...

    def whole(self, nets: Networks, values: Values) -> dict[str, Tensor]:
        """Scalars of the whole batch by name, from the values of all samples; "total" is the one to differentiate."""
        ...


@dataclass(frozen=True)
class Turn:
    """An optimizer step of one network, taken at every `every`-th step of a phase."""

    network: str  # "generator", "critic" or "discriminator"
    every: int
    batch_size: int  # images, over all processes
    lr: float  # peak learning rate
    purpose: str = ""  # tells a second turn of the same network apart, such as one for a penalty

    @property
    def name(self) -> str:
        """The name that the loss, the random numbers and the log of the turn go by."""
        return f"{self.network}_{self.purpose}" if self.purpose else self.network


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A part of training with its own optimizers. A step takes its turns in the order of `turns`.

    begin runs once, before the first step, and may be slow. after runs after every optimizer step, with the name of the
    turn and the values of the whole batch, which are empty unless the turn has a batch_loss.
    """

    name: str
    steps: int
    turns: tuple[Turn, ...]
    loss: Loss
    lr_schedule: Literal["constant", "cosine"]
    is_preparation: bool = False  # its generators are not candidates for the best one
    starts_from_best: bool = False  # start with the best generator so far instead of the last one
    reads_images: tuple[str, ...] = ()  # names of turns that draw training images, which are then read ahead
    reads_pairs: tuple[str, ...] = ()  # names of turns that draw teacher pairs
    batch_loss: BatchLoss | None = None  # replaces `loss` in the generator's turn
    begin: Callable[[Networks, Draw], None] | None = None
    after: Callable[[str, Networks, Values], None] | None = None

    def turns_at(self, step: int) -> tuple[Turn, ...]:
        """The turns of a step: their frequencies give the networks two time scales (DMD2, section 4.2)."""
        return tuple(turn for turn in self.turns if (step + 1) % turn.every == 0)

    def count(self, turn: Turn) -> int:
        """The number of times that the phase takes `turn`."""
        return self.steps // turn.every

    @property
    def generator_turns(self) -> int:
        """The number of generator turns in this phase."""
        return sum(self.count(turn) for turn in self.turns if turn.network == "generator")


def turns_from(phases: Iterable[Phase], step: int) -> Iterator[tuple[int, Phase, Turn]]:
    """Yield (step, phase, turn) for every turn of the phases in their order, from the step `step` on."""
    start = 0
    for phase in phases:
        for done in range(max(step - start, 0), phase.steps):
            for turn in phase.turns_at(done):
                yield start + done, phase, turn
        start += phase.steps
