"""Checkpoints of NVlabs' edm, which are pickles, read as plain data: nothing that they carry ever runs."""

import io
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from dmd.errors import PickleError

NUMBERS = "biufc"  # kinds of numpy's dtypes
IN_PYTHON: Any = pickle._Unpickler  # type: ignore[attr-defined]  # that in C has no hook where a state is given


class Inert:
    """What a pickled module becomes: its class's name and its state. No code belongs to it."""

    class_name = ""

    def __init__(self) -> None:
        self.state: dict[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        self.state = dict(state) if isinstance(state, dict) else {}

    def tensors(self, prefix: str = "") -> dict[str, Tensor]:
        """Parameters and buffers by name, as in a state dict."""
        found: dict[str, Tensor] = {}
        for kind in ("_parameters", "_buffers"):
            of_kind = self.state.get(kind) or {}
            found |= {prefix + name: v.detach() for name, v in of_kind.items() if isinstance(v, Tensor)}
        for name, module in (self.state.get("_modules") or {}).items():
            if isinstance(module, Inert):
                found |= module.tensors(f"{prefix}{name}.")
        return found

    def arguments(self) -> dict[str, Any]:
        """Those it was made with, as `persistent_class` of edm records them; what is no plain value as text."""
        args, kwargs = self.state.get("_init_args", ()), self.state.get("_init_kwargs", {})
        return {str(i): v for i, v in enumerate(args)} | {str(k): v for k, v in kwargs.items()}


def _persistent(meta: dict[str, Any]) -> Inert:
    """In place of edm's own, which would run the source text that the pickle carries (`module_src`)."""
    made = _inert(str(meta.get("class_name")))()
    made.__setstate__(meta.get("state"))
    return made


def _inert(name: str) -> type[Inert]:
    return type("Inert", (Inert,), {"class_name": name, "__init__": Inert.__init__})


def _new(cls: Any, *_: Any) -> Any:
    """In place of copyreg's: only what is inert is made."""
    if not (isinstance(cls, type) and issubclass(cls, Inert)):
        raise PickleError("copyreg._reconstructor of something that is no module")
    return cls()


def _storage(content: bytes) -> Any:
    """In place of torch's, which would read a pickle within the pickle without asking what is in it.

    What torch admits there may be a function too, and the pickle around it could call that.
    """
    found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    if not isinstance(found, torch.storage.TypedStorage):
        raise PickleError(f"torch.storage._load_from_bytes of a {type(found).__name__}")
    return found


def _tensor(storage: Any, offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
    if not isinstance(storage, torch.storage.TypedStorage):
        raise PickleError(f"a tensor in a {type(storage).__name__}")
    return torch._utils._rebuild_tensor(storage, offset, size, stride)  # type: ignore[attr-defined]


def _parameter(data: Tensor, *_: Any) -> Tensor:
    return data


class Kind:
    """What a pickled numpy.dtype becomes. numpy's own takes flags and fields from the file: bytes would turn into
    pointers."""

    def __init__(self, name: Any, *_: Any) -> None:
        self.name = name
        self.order: Any = "="

    def __setstate__(self, state: Any) -> None:
        self.order = state[1]

    def dtype(self) -> np.dtype:
        """As numpy makes it of name and byte order. Raises PickleError for what is no number."""
        found = np.dtype(self.name) if isinstance(self.name, str) else None
        if found is None or found.kind not in NUMBERS or self.order not in tuple("<>=|"):
            raise PickleError("a numpy scalar that is no number")
        return found.newbyteorder(self.order)


def _scalar(kind: Any, content: Any = b"") -> Any:
    if not isinstance(kind, Kind) or not isinstance(content, bytes):
        raise PickleError("a numpy scalar that is no number")
    return np.frombuffer(content, kind.dtype())[0].item()


def _bytes(text: str, encoding: str) -> bytes:
    """How old protocols spell bytes."""
    if encoding != "latin1":
        raise PickleError(f"_codecs.encode with {encoding!r}")
    return text.encode("latin1")


ADMITTED: dict[str, Callable[..., Any]] = {
    "torch_utils.persistence._reconstruct_persistent_obj": _persistent,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch.storage._load_from_bytes": _storage,
    "torch.Size": tuple,
    "collections.OrderedDict": OrderedDict,
    "dnnlib.util.EasyDict": OrderedDict,
    "copyreg._reconstructor": _new,
    "copy_reg._reconstructor": _new,
    "numpy.dtype": Kind,
    "_codecs.encode": _bytes,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy._core.multiarray.scalar": _scalar,
    **{f"{builtins}.{kind.__name__}": kind for builtins in ("builtins", "__builtin__") for kind in (set, frozenset)},
}


class PlainUnpickler(IN_PYTHON):
    """Admits tensors, plain containers and numbers. A module of torch becomes inert; any other global is refused."""

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full in ADMITTED:
            return ADMITTED[full]
        if module.startswith("torch.nn.modules.") and name.isidentifier():
            return _inert(full)
        if full == "builtins.object":
            return None  # the base that copyreg names; never called
        raise PickleError(f"it asks for {full}, which plain weights do not need")

    def load_build(self) -> None:
        """Only what is inert takes a state: a tensor, a storage or a function would get any attribute."""
        if not isinstance(self.stack[-2], Inert | Kind):
            raise PickleError(f"it gives a state to a {type(self.stack[-2]).__name__}")
        super().load_build()

    dispatch: ClassVar = {**IN_PYTHON.dispatch, pickle.BUILD[0]: load_build}


def read_checkpoint(file: Path, key: str = "ema") -> Inert:
    """The network under `key`. Raises PickleError, with the name of what it asks for, where it is not plain data."""
    try:
        with file.open("rb") as stream:
            content = PlainUnpickler(stream).load()
    except PickleError as e:
        raise PickleError(f"{file} is refused: {e}") from None
    except OSError as e:
        raise PickleError(f"{file}: {e.strerror or e}") from None
    except Exception as e:  # a damaged pickle raises nearly anything; none of it is of use
        raise PickleError(f"{file} is not a checkpoint that can be read ({type(e).__name__})") from None
    if not isinstance(content, dict) or not isinstance(content.get(key), Inert):
        raise PickleError(f"{file} holds no network named {key!r}")
    return content[key]
