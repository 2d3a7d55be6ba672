"""What a distillation method is: phases of training, each of which says who learns when, and from which loss.

A step is one critic turn (in a phase without critic turns, one generator turn); budgets count generator turns. The
trainer knows nothing else of a method.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from dmd.config import MethodConfig, TrainConfig
from dmd.diffusion.denoiser import Cond, Denoiser
from dmd.distillation.batches import TrainingImages
from dmd.distillation.discriminator import Discriminator
from dmd.distillation.lora import student
from dmd.distillation.monitors import image_statistics
from dmd.distillation.random_source import RandomSource
from dmd.samplers.few_step import step_times
from dmd.teachers.pairs import Pairs
from dmd.teachers.teacher import Teacher

TURNS = ("generator", "critic")
STATISTICS = 2048  # real images whose mean and spread stand beside the generated ones'


@dataclass(frozen=True)
class Networks:
    """teacher is frozen, and guided where guidance is asked for; generator and critic start as its copies.

    The discriminator, where there is one, is a head on the critic.
    """

    teacher: Denoiser
    generator: Denoiser
    critic: Denoiser
    discriminator: Discriminator | None = None

    def of_turn(self, turn: str) -> nn.Module:
        """The network that a turn trains has the turn's name; the discriminator learns with the critic."""
        critic = self.critic if self.discriminator is None else nn.ModuleList([self.critic, self.discriminator])
        return {"generator": self.generator, "critic": critic}[turn]

    def parts(self) -> list[nn.Module]:
        """The networks as they run, one by one."""
        heads = [] if self.discriminator is None else self.discriminator.heads
        return [self.teacher.net, self.generator.net, self.critic.net, *heads]

    @contextmanager
    def learning(self, turn: str) -> Iterator[nn.Module]:
        """The network of a turn, while it alone takes gradients: those of the GAN pass through the critic."""
        frozen = [p for name in TURNS if name != turn for p in self.of_turn(name).parameters() if p.requires_grad]
        for p in frozen:
            p.requires_grad_(False)
        try:
            yield self.of_turn(turn)
        finally:
            for p in frozen:
                p.requires_grad_(True)

    def checkpoint_gradients(self) -> None:
        """Keep few activations of generator and critic for the backward pass, and compute the others again."""
        for denoiser in (self.generator, self.critic):
            denoiser.net.enable_gradient_checkpointing()  # type: ignore[operator]


# (turn, networks, z, cond, rng) -> scalars by name; "total" is what to differentiate. z is noise [B, *latent_shape].
Loss = Callable[[str, Networks, Tensor, Cond, RandomSource], dict[str, Tensor]]


@dataclass(frozen=True)
class Phase:
    """A stretch of training, with optimizers of its own."""

    name: str
    steps: int
    every: Mapping[str, int]  # by network: it learns at every so many steps; one that is not named does not learn
    loss: Loss
    batch_size: Mapping[str, int]  # by network
    lr: Mapping[str, float]  # by network
    lr_schedule: Literal["constant", "cosine"]
    prepares: bool = False  # a preparation: its generators are no candidates for the best
    gan: bool = False  # the GAN's losses are among its own
    from_best: bool = False  # begin with the generator that validated best so far, not with the last one

    def turns(self, step: int) -> tuple[str, ...]:
        """The networks that learn at this step of the phase, in order (two time-scale update by frequency)."""
        return tuple(n for n in ("critic", "generator") if n in self.every and (step + 1) % self.every[n] == 0)

    @property
    def generator_turns(self) -> int:
        return self.steps // self.every["generator"] if "generator" in self.every else 0


class Method(ABC):
    """Phases, turns and losses of one distillation method."""

    def __init__(
        self, cfg: MethodConfig, timesteps: int, pairs: Pairs, real: TrainingImages, default_timestep: int | None = None
    ) -> None:
        """timesteps is T of the teacher's grid; pairs may be empty; real is what a GAN loss takes for real.

        default_timestep is the teacher's own for a generator, where cfg leaves it to that; T-1 if there is none.

        Raises ValueError where the generator's timestep does not exist.
        """
        self.cfg = cfg
        self.timesteps = timesteps
        self.pairs = pairs
        self.real = real
        statistics = image_statistics(real.x[:STATISTICS]) if len(real.x) else {}
        self.real_statistics = {f"real_{name.removeprefix('x_')}": value for name, value in statistics.items()}
        default = timesteps - 1 if default_timestep is None else default_timestep
        first = default if cfg.generator_timestep == "auto" else cfg.generator_timestep
        if first >= timesteps:
            raise ValueError(
                f"method.generator_timestep: {first} lies beyond the teacher's last index, {timesteps - 1}"
            )
        self.timesteps_of_generator = step_times(first, cfg.steps)

    def latent_shape(self, shape: tuple[int, int, int]) -> tuple[int, ...]:
        """Of the noise that one image [C, H, W] is made from: each further step takes noise of its own."""
        return shape if self.cfg.steps == 1 else (self.cfg.steps, *shape)

    def networks(self, teacher: Teacher, seed: int, ranks: tuple[int, int] = (0, 0), alpha: int = 0) -> Networks:
        """Generator and critic as copies of the teacher, without its guidance; the seed is for what is not a copy.

        ranks: of the adapters of generator and critic, 0 where all weights learn; alpha: of both, 0 for the rank.
        """
        generator, critic = (student(teacher.denoiser, rank, seed, alpha) for rank in ranks)
        return Networks(teacher.guided, generator, critic)

    @abstractmethod
    def phases(self, cfg: TrainConfig) -> tuple[Phase, ...]:
        """The run from its start to its end."""
