"""The device that networks run on."""

import torch

from dmd.errors import ConfigError


def choose_device(name: str, fallback: bool = False) -> torch.device:
    """Return the device for `runtime.device`: auto takes CUDA where it is available.

    fallback: take the CPU where CUDA is not available. Raises ConfigError in that case otherwise.
    """
    if name == "cpu" or torch.cuda.is_available():
        return torch.device("cpu" if name == "cpu" else "cuda")
    if name == "auto" or fallback:
        return torch.device("cpu")
    raise ConfigError(f"runtime.device: {name!r} is not available on this machine; use auto or cpu")
