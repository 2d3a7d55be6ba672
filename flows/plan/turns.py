"""What the train stage will do, counted before it does: its turns, their images, and the passes that these take."""

import re
from dataclasses import dataclass

import torch

from dmd.config import Params
from dmd.distillation.batches import TrainingImages
from dmd.distillation.methods import METHODS, Method, Phase
from dmd.distillation.methods.dmd import TRAJECTORY_STEPS
from dmd.teachers.pairs import Pairs

ENCODER = 0.5  # share of a pass that goes through a network's first half alone


@dataclass(frozen=True)
class Turns:
    """All turns of one network in one phase. Passes are of one image through one network, on average over the steps."""

    network: str  # the one that learns
    count: int
    batch: int  # images per turn, over all processes and parts
    forwards: float
    backwards: float
    graphs: int  # passes whose activations are kept whole until the backward pass
    features: int  # passes through the critic of which only the encoder's activations are kept: the GAN's

    @property
    def images(self) -> int:
        """Images that the network learns from."""
        return self.count * self.batch


def turns_of(params: Params) -> list[Turns]:
    """Every kind of turn, in the order of the phases; what each takes is read off dmd/distillation/methods."""
    return [
        _turns(params, phase, network) for phase in method_of(params).phases(params.train) for network in phase.every
    ]


def method_of(params: Params) -> Method:
    """The method without pairs, data or weights: enough for its phases and networks."""
    cfg = params.method.model_copy(update={"generator_timestep": "auto", "regression_loss": "l2"})
    none, blank = torch.empty(0, 1, 1, 1), torch.zeros(2, 1, 2, 2)
    reals = TrainingImages(blank, torch.zeros(2, dtype=torch.long))
    return METHODS[cfg.name](cfg, params.teacher.timesteps, Pairs(none, none, None), reals)


def _turns(params: Params, phase: Phase, network: str) -> Turns:
    make = _critic if network == "critic" else _generator
    forwards, backwards, graphs, features = make(params, phase)
    count = phase.steps // phase.every[network]
    return Turns(network, count, phase.batch_size[network], forwards, backwards, graphs, features)


def _critic(params: Params, phase: Phase) -> tuple[float, float, int, int]:
    """The generator makes images; the critic denoises them, and its encoder tells them from real ones."""
    features = _encoded(params, phase) * (3 if params.method.gan.r1_weight > 0 else 2)
    return _generate(params) + 1 + ENCODER * features, 1 + ENCODER * features, 1, features


def _generator(params: Params, phase: Phase) -> tuple[float, float, int, int]:
    """Regression alone, or the scores of teacher and critic, with what the method adds."""
    if phase.prepares:
        return _regression(params), 1, 1, 0
    gan = _encoded(params, phase)
    forwards, backwards, graphs = _generate(params) + guided(params) + 1, 1 + ENCODER * gan, 1
    if params.method.regression_weight > 0:
        forwards, backwards, graphs = forwards + _regression(params), backwards + 1, graphs + 1
    weighed = gan and params.method.name == "f_distill"  # by the discriminator, without gradient
    return forwards + ENCODER * (gan + weighed), backwards, graphs, gan


def _encoded(params: Params, phase: Phase) -> int:
    """1 where images are told apart by the critic's encoder, 0 where by heads on the images, which cost nothing."""
    return int(phase.gan and params.method.gan.features not in ("image", "detail"))


def _generate(params: Params) -> float:
    """Passes of backward simulation, which ends at a step drawn at random."""
    return (1 + params.method.steps) / 2


def _regression(params: Params) -> float:
    """The generator's pass, and the teacher's trajectory to the target of every step but the first."""
    later = (params.method.steps - 1) / params.method.steps
    return 1 + later * TRAJECTORY_STEPS * guided(params)


def guided(params: Params) -> int:
    """Passes of one prediction of the teacher: with guidance also that without condition."""
    return 1 if params.guidance.scale == 1 else 2


def processes(launcher: str) -> int:
    """How many processes share a batch, by the launcher's --num_processes; 1 where it does not say."""
    found = re.search(r"--num[_-]processes[= ](\d+)", launcher)
    return int(found.group(1)) if found else 1
