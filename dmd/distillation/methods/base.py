"""The interface of a distillation method: its phases, its networks and its checks.

The trainer knows nothing else about a method.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

from dmd.config import MethodConfig, TrainConfig
from dmd.distillation.inputs.batches import TrainingImages
from dmd.distillation.lora import student
from dmd.distillation.monitors import image_statistics
from dmd.distillation.networks import Networks
from dmd.distillation.phases import Phase
from dmd.features.frozen import FrozenNetwork
from dmd.samplers.few_step import step_times
from dmd.teachers.pairs import Pairs
from dmd.teachers.teacher import Teacher

STATISTICS = 2048  # training images whose mean and spread are logged beside those of generated ones


@dataclass(frozen=True)
class Setting:
    """Facts about teacher and data that decide whether a method can run."""

    on_pixels: bool  # the teacher works on images, not on latents
    has_images: bool  # the data hold images, not prompts alone
    pairs: int
    has_null: bool = True  # the teacher has a condition for "no condition"
    guided_by_input: bool = False  # the teacher takes the guidance scale as an input


class Method(ABC):
    """Phases, networks and checks of one distillation method."""

    has_critic = True  # without one, the teacher stands in its place

    def __init__(
        self,
        cfg: MethodConfig,
        timesteps: int,
        pairs: Pairs,
        data: TrainingImages,
        default_timestep: int | None = None,
        frozen: Mapping[str, FrozenNetwork] | None = None,
    ) -> None:
        """timesteps is T of the teacher's grid; pairs may be empty; data are the real images of a GAN loss.

        frozen: the loaded networks of `frozen_networks` by name. default_timestep is the generator's first index if
        cfg.generator_timestep is auto; None stands for T-1. Raises ValueError if cfg.generator_timestep is beyond T-1.
        """
        self.cfg = cfg
        self.timesteps = timesteps
        self.pairs = pairs
        self.data = data
        self.frozen = dict(frozen or {})
        statistics = image_statistics(data.x[:STATISTICS]) if len(data.x) else {}
        self.data_statistics = {f"real_{name.removeprefix('x_')}": value for name, value in statistics.items()}
        default = timesteps - 1 if default_timestep is None else default_timestep
        first = default if cfg.generator_timestep == "auto" else cfg.generator_timestep
        if first >= timesteps:
            raise ValueError(
                f"method.generator_timestep: {first} is beyond the teacher's last index; use at most {timesteps - 1}"
            )
        self.generator_times = step_times(first, cfg.steps)
        self.null: int | None = None  # the label for "no condition", once the teacher is known

    def set_times(self, times: tuple[int, ...]) -> None:
        """Condition the generator on these indices of the teacher's grid, one for each step, in descending order."""
        self.generator_times = times

    def set_null(self, null: int | None) -> None:
        """Use this label for "no condition"; None if the teacher has no conditions."""
        self.null = null

    @classmethod
    def check_params(cls, cfg: MethodConfig) -> list[str]:
        """Problems with the parameters alone, one line each, before any work is done."""
        return []

    @classmethod
    def check_setting(cls, cfg: MethodConfig, setting: Setting) -> list[str]:
        """Problems with these parameters on this teacher and these data, one line each."""
        return []

    @classmethod
    def frozen_networks(cls, cfg: MethodConfig) -> dict[str, str]:
        """Names of the frozen networks of images that the method reads, each with the key that lists it."""
        return {}

    @abstractmethod
    def phases(self, cfg: TrainConfig) -> tuple[Phase, ...]:
        """The phases of a run, from its start to its end."""

    def networks(self, teacher: Teacher, seed: int, ranks: tuple[int, int] = (0, 0), alpha: int = 0) -> Networks:
        """Generator and critic as copies of the unguided teacher, and what `extend` adds; the seed makes new weights.

        ranks are the LoRA ranks of generator and critic, 0 to train all weights; alpha is the LoRA alpha of both, 0 for
        the rank.
        """
        self.set_null(teacher.conditions - 1 if teacher.conditions else None)
        generator = student(teacher.denoiser, ranks[0], seed, alpha)
        critic = student(teacher.denoiser, ranks[1], seed, alpha) if self.has_critic else teacher.denoiser
        return self.extend(Networks(teacher.guided, generator, critic), teacher, seed)

    def extend(self, nets: Networks, teacher: Teacher, seed: int) -> Networks:
        """Add the further networks of this method, such as a discriminator, to generator and critic."""
        return nets

    def noise_shape(self, shape: tuple[int, int, int]) -> tuple[int, ...]:
        """Shape of the noise of one image [C, H, W]: a generator of N steps with fresh noise takes [N, C, H, W]."""
        return shape if self.cfg.steps == 1 or self.cfg.levels.between == "ode" else (self.cfg.steps, *shape)
