"""Checks of the parameters against the registry's gate and the method, made before a run starts its work."""

from dmd.config import Params
from flows.registry.gate import check_gate


def check_run(params: Params) -> None:
    """Raise ConfigError if the gate names an unknown measure, or if the method does not accept its parameters."""
    from dmd.distillation.methods import check_method  # imports torch, which takes seconds

    check_gate(params.register_.gate)
    check_method(params)
