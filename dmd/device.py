"""The device that networks run on."""

import torch

from dmd.errors import ConfigError


def choose_device(name: str, fallback: bool = False) -> torch.device:
    """Return the device for `runtime.device`; auto stands for CUDA if it is available, otherwise for the CPU.

    fallback: return the CPU if `name` is cuda and CUDA is not available, instead of raising ConfigError.
    """
    if name == "cpu" or torch.cuda.is_available():
        return torch.device("cpu" if name == "cpu" else "cuda")
    if name == "auto" or fallback:
        return torch.device("cpu")
    raise ConfigError(f"runtime.device: {name!r} is not available on this machine; use auto or cpu")
