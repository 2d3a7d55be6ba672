"""The distillation methods by name.

To add one: its file here, its line below and in METHOD_NAMES of dmd/config.py, its keys in params.yaml and the schema.
"""

from dmd.config import Params
from dmd.distillation.methods.base import Method, Setting
from dmd.distillation.methods.dmd import DMD
from dmd.distillation.methods.dmd2 import DMD2
from dmd.distillation.methods.f_distill import FDistill
from dmd.errors import ConfigError

METHODS: dict[str, type[Method]] = {"dmd": DMD, "dmd2": DMD2, "f_distill": FDistill}


def check_method(params: Params, setting: Setting | None = None) -> None:
    """Raise ConfigError, one line for each problem, if the method cannot run with these parameters.

    setting: facts about teacher and data, if they are known already.
    """
    method = METHODS[params.method.name]
    problems = method.check_params(params.method)
    if setting is not None:
        problems += method.check_setting(params.method, setting)
    if problems:
        raise ConfigError("\n".join(problems))


__all__ = ["METHODS", "Method", "Setting", "check_method"]
