"""A method, and then another one from the best generator of the first (method.then)."""

from dataclasses import replace

from dmd.config import MethodConfig, ThenConfig, TrainConfig
from dmd.distillation.methods.base import Method
from dmd.distillation.networks import Networks
from dmd.distillation.phases import Phase
from dmd.teachers.teacher import Teacher


class Sequence(Method):
    """Two methods on the same networks: the phases of the second follow those of the first."""

    def __init__(self, first: Method, second: Method) -> None:
        super().__init__(first.cfg, first.timesteps, first.pairs, first.data, first.generator_times[0], first.frozen)
        self.methods = first, second
        self.has_critic = first.has_critic or second.has_critic

    def set_times(self, times: tuple[int, ...]) -> None:
        """Condition the generator of both methods on these indices."""
        super().set_times(times)
        for method in self.methods:
            method.set_times(times)

    def set_null(self, null: int | None) -> None:
        """Give both methods the label for "no condition"."""
        super().set_null(null)
        for method in self.methods:
            method.set_null(null)

    def extend(self, nets: Networks, teacher: Teacher, seed: int) -> Networks:
        """Add the networks of both methods; those of one kind are equal, since both have the same parameters."""
        first, second = self.methods
        return second.extend(first.extend(nets, teacher, seed), teacher, seed)

    def phases(self, cfg: TrainConfig) -> tuple[Phase, ...]:
        """The phases of the first method, then those of the second without its warm start."""
        first, second = self.methods
        start, *rest = (replace(p, name=f"{p.name}_2") for p in second.phases(training_of_second(cfg, self.cfg.then)))
        return *first.phases(cfg), replace(start, starts_from_best=True), *rest


def parameters_of_second(cfg: MethodConfig) -> MethodConfig:
    """Parameters of the second method: those of the first, with its own name and a GAN loss from its first turn."""
    return cfg.model_copy(update={"name": cfg.then.name, "gan": cfg.gan.model_copy(update={"from_turn": 0})})


def training_of_second(cfg: TrainConfig, then: ThenConfig) -> TrainConfig:
    """Training of the second method: its own turns, batch and rates, and of the warm start only the critic turns."""
    rates = {key: getattr(cfg, key) * then.lr_factor for key in ("lr_generator", "lr_critic", "lr_discriminator")}
    batch = cfg.generator_batch_size if then.generator_batch_size == "same" else then.generator_batch_size
    warm_start = cfg.warm_start.model_copy(update={"turns": 0, "critic_turns": then.critic_turns})
    changes = {"generator_turns": then.generator_turns, "generator_batch_size": batch, "warm_start": warm_start}
    return cfg.model_copy(update=rates | changes)
