"""The turns of the train stage with their images and network passes, counted before it starts."""

import re
from dataclasses import dataclass

from dmd.config import Params
from dmd.distillation.cost import turn_costs

ENCODER_SHARE = 0.5  # of a whole pass, for a pass through the encoder alone


@dataclass(frozen=True)
class Turns:
    """All turns of one network in one phase; passes are per image, averaged over the steps of the generator."""

    network: str  # the one that trains
    count: int
    batch: int  # images per turn, over all processes and parts
    forwards: float
    backwards: float
    graphs: float  # passes whose activations are kept whole until the backward pass
    features: float  # passes through the critic of which the encoder's activations are kept, for the discriminator

    @property
    def images(self) -> int:
        """Images that the network trains on."""
        return self.count * self.batch


def turns_of(params: Params) -> list[Turns]:
    """Every kind of turn, in the order of the phases."""
    return [
        Turns(
            network=cost.turn.network,
            count=cost.count,
            batch=cost.turn.batch_size,
            forwards=cost.passes.forward + ENCODER_SHARE * cost.passes.encoder_forward,
            backwards=cost.passes.backward + ENCODER_SHARE * cost.passes.encoder_backward,
            graphs=cost.passes.kept,
            features=cost.passes.encoder_kept,
        )
        for cost in turn_costs(params)
    ]


def guided(params: Params) -> int:
    """Passes of one prediction of the teacher: two with guidance, which predicts without the condition, too."""
    return 1 if params.guidance.scale == 1 else 2


def processes(launcher: str) -> int:
    """Number of processes that share a batch: the launcher's --num_processes, 1 without it."""
    match = re.search(r"--num[_-]processes[= ](\d+)", launcher)
    return int(match.group(1)) if match else 1
