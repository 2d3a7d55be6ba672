"""The distillation methods by name.

To add a method, write its file, list it in METHODS and in METHOD_NAMES (dmd/config.py), and add its keys to params.yaml
and the schema; CONTRIBUTING.md lists every file.
"""

from collections.abc import Mapping

from dmd.config import NONE, MethodConfig, Params
from dmd.distillation.inputs.batches import TrainingImages
from dmd.distillation.methods.base import Method, Setting
from dmd.distillation.methods.decoupled import Decoupled
from dmd.distillation.methods.dmd import DMD
from dmd.distillation.methods.dmd2 import DMD2
from dmd.distillation.methods.f_distill import FDistill
from dmd.distillation.methods.fd_loss import FDLoss
from dmd.distillation.methods.gdd import GDD
from dmd.distillation.methods.mmd_loss import MMDLoss
from dmd.distillation.methods.sequence import Sequence, parameters_of_second
from dmd.errors import ConfigError
from dmd.features.frozen import FrozenNetwork
from dmd.teachers.pairs import Pairs

METHODS: dict[str, type[Method]] = {
    "dmd": DMD,
    "dmd2": DMD2,
    "f_distill": FDistill,
    "gdd": GDD,
    "fd_loss": FDLoss,
    "mmd_loss": MMDLoss,
    "decoupled": Decoupled,
}
# Keys of `method` that only a critic gives an effect, each with the value that switches it off.
NEEDS_CRITIC = {"projection": False, "critic_interpolation": 1.0, "critic_average": 0.0}


def build_method(
    cfg: MethodConfig,
    timesteps: int,
    pairs: Pairs,
    data: TrainingImages,
    default_timestep: int | None = None,
    frozen: Mapping[str, FrozenNetwork] | None = None,
) -> Method:
    """Build the method that the parameters name, or the sequence of two. Arguments and errors are those of Method."""
    first, *second = [METHODS[c.name](c, timesteps, pairs, data, default_timestep, frozen) for c in _methods(cfg)]
    return Sequence(first, second[0]) if second else first


def frozen_networks(cfg: MethodConfig) -> dict[str, str]:
    """Names of the frozen networks of images that the methods read, each with the key that lists it."""
    return {name: key for c in _methods(cfg) for name, key in METHODS[c.name].frozen_networks(c).items()}


def check_method(params: Params, setting: Setting | None = None) -> None:
    """Raise ConfigError, one line for each problem, if the methods cannot run with these parameters.

    setting: facts about teacher and data, once they are known.
    """
    problems, cfg = list[str](), params.method
    for c in _methods(cfg):
        problems += METHODS[c.name].check_params(c)
        if setting is not None:
            problems += METHODS[c.name].check_setting(c, setting)
    if not any(METHODS[c.name].has_critic for c in _methods(cfg)):
        used = [key for key, off in NEEDS_CRITIC.items() if getattr(cfg, key) != off]
        problems += [f"method.{k}: {cfg.name} has no critic; use {str(NEEDS_CRITIC[k]).lower()}" for k in used]
    if cfg.then.name != NONE and cfg.then.critic_turns and not METHODS[cfg.then.name].has_critic:
        problems.append(f"method.then.critic_turns: {cfg.then.name} has no critic; use 0")
    if problems:
        raise ConfigError("\n".join(dict.fromkeys(problems)))


def _methods(cfg: MethodConfig) -> list[MethodConfig]:
    """The parameters of each method in turn."""
    return [cfg] if cfg.then.name == NONE else [cfg, parameters_of_second(cfg)]


__all__ = ["METHODS", "Method", "Setting", "build_method", "check_method", "frozen_networks"]
