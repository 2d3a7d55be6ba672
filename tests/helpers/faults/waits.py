"""A watch on operations that make the host wait for the device of the networks, for tensors without data ("meta")."""

from typing import Any, Self

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

READS = ("_linalg_eigh", "_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "unique")
UPLOADS = ("tensor", "as_tensor", "asarray", "from_numpy", "new_tensor", "__setitem__")


class Watch:
    """Collects the operations that read a value, select by a mask, or copy between the CPU and the device."""

    def __init__(self) -> None:
        self.waits: list[str] = []
        self.modes = (_Operations(self.waits), _Functions(self.waits))

    def __enter__(self) -> Self:
        for mode in self.modes:
            mode.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        for mode in reversed(self.modes):
            mode.__exit__(*exc)


class _Operations(TorchDispatchMode):
    def __init__(self, waits: list[str]) -> None:
        super().__init__()
        self.waits = waits

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        of_cpu = bool(args) and isinstance(args[0], Tensor) and args[0].device.type == "cpu"  # no device waits for it
        is_read = name.rstrip("0123456789_").startswith(READS) and not of_cpu
        if is_read or (name.startswith("index") and _has_mask(args)):
            self.waits.append(name)
        target = (kwargs or {}).get("device")
        if "copy" in name:
            source, to = (args[1], args[0].device) if name == "copy_" else (args[0], target or args[0].device)
            if (to.type == "cpu") != (source.device.type == "cpu"):
                self.waits.append(f"{name} from {source.device} to {to}")
        return func(*args, **(kwargs or {}))


class _Functions(TorchFunctionMode):
    """Calls that upload a number or a list, or select by a mask; tensors without data hide these from `_Operations`."""

    def __init__(self, waits: list[str]) -> None:
        super().__init__()
        self.waits = waits

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in UPLOADS or name in ("masked_select", "unique"):
            self.waits.append(name)
        return func(*args, **(kwargs or {}))


def _has_mask(args: tuple[Any, ...]) -> bool:
    indices = [i for arg in args if isinstance(arg, (list, tuple)) for i in arg]
    return any(isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8) for i in indices)
