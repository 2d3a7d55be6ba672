"""Checks that numbers are finite: weights that are read, and images and features before they are written."""

from pathlib import Path

from torch import Tensor, nn

from dmd.errors import NumberError


def check_finite(values: Tensor, fault: str, remedy: str) -> None:
    """Raise NumberError "FAULT has NaN or infinite values; REMEDY" unless all values are finite."""
    if not values.isfinite().all():
        raise NumberError(f"{fault} has NaN or infinite values; {remedy}")


def find_infinite_weight(net: nn.Module) -> str:
    """Return the name of the first weight that has NaN or infinite values; empty if there is none."""
    weights = ((name, value) for name, value in net.state_dict().items() if value.is_floating_point())
    return next((name for name, value in weights if not value.isfinite().all()), "")


def check_weights(net: nn.Module, source: Path) -> None:
    """Raise NumberError if a weight that was read from `source` is NaN or infinite."""
    if name := find_infinite_weight(net):
        raise NumberError(f"{source}: weight {name} has NaN or infinite values; replace the file")
