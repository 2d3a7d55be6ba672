"""The distillation methods by name.

To add a method, write its file, list it in METHODS and in METHOD_NAMES (dmd/config.py), and add its keys to params.yaml
and the schema.
"""

from dmd.config import Params
from dmd.distillation.methods.base import Method, Setting
from dmd.distillation.methods.dmd import DMD
from dmd.distillation.methods.dmd2 import DMD2
from dmd.distillation.methods.f_distill import FDistill
from dmd.distillation.methods.gdd import GDD
from dmd.errors import ConfigError

METHODS: dict[str, type[Method]] = {"dmd": DMD, "dmd2": DMD2, "f_distill": FDistill, "gdd": GDD}


def check_method(params: Params, setting: Setting | None = None) -> None:
    """Raise ConfigError, one line for each problem, if the method cannot run with these parameters.

    setting: facts about teacher and data, once they are known.
    """
    method = METHODS[params.method.name]
    problems = method.check_params(params.method)
    if setting is not None:
        problems += method.check_setting(params.method, setting)
    if problems:
        raise ConfigError("\n".join(problems))


__all__ = ["METHODS", "Method", "Setting", "check_method"]
