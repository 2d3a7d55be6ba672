"""Reads checkpoints of NVlabs' edm, which are pickles, as plain data: no code in them ever runs.

A pickle can name one object many times. A few such objects inside one another stand for more values than any memory
holds, and Python hashes, prints and copies each of them. Keys are therefore scalars, and the network is counted as if
it were written out.
"""

import io
import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from dmd.errors import PickleError

NUMBERS = "biufc"  # numpy's kind codes of number types
SCALARS = (str, bytes, int, float, type(None))  # types of keys: the hash of a tuple of tuples can take for ever
EXPANSION, LEAST_SIZE = 4, 2**20  # written out, a network has at most so many times the bytes of its file, or so many
IN_PYTHON: Any = pickle._Unpickler  # type: ignore[attr-defined]  # the C unpickler has no hook for load_build


class Inert:
    """A pickled module, reduced to the name of its class and its state, without code."""

    class_name = ""

    def __init__(self) -> None:
        self.state: dict[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        self.state = dict(state) if isinstance(state, dict) else {}

    def tensors(self, prefix: str = "") -> dict[str, Tensor]:
        """Parameters and buffers by name, as in a state dict."""
        tensors: dict[str, Tensor] = {}
        for kind in ("_parameters", "_buffers"):
            entries = self.state.get(kind) or {}
            tensors |= {prefix + name: v.detach() for name, v in entries.items() if isinstance(v, Tensor)}
        for name, module in (self.state.get("_modules") or {}).items():
            if isinstance(module, Inert):
                tensors |= module.tensors(f"{prefix}{name}.")
        return tensors

    def arguments(self) -> dict[str, Any]:
        """Constructor arguments of the module, as edm's `persistent_class` records them."""
        args, kwargs = self.state.get("_init_args", ()), self.state.get("_init_kwargs", {})
        return {str(i): v for i, v in enumerate(args)} | {str(k): v for k, v in kwargs.items()}


def _persistent(meta: dict[str, Any]) -> Inert:
    """Replace edm's own function, which would run the source text in the pickle (`module_src`)."""
    if not isinstance(name := meta.get("class_name"), str):
        raise PickleError("a module whose class has no name")
    module = _inert(name)()
    module.__setstate__(meta.get("state"))
    return module


def _inert(name: str) -> type[Inert]:
    return type("Inert", (Inert,), {"class_name": name, "__init__": Inert.__init__})


def _new(cls: Any, *_: Any) -> Any:
    """Replace copyreg's function; it constructs inert modules only."""
    if not (isinstance(cls, type) and issubclass(cls, Inert)):
        raise PickleError("copyreg._reconstructor of an object that is not a module")
    return cls()


def _storage(content: bytes) -> Any:
    """Replace torch's function, which would load the inner pickle without a check of its contents.

    torch admits some functions in an inner pickle, and the outer pickle could then call them.
    """
    if zipfile.is_zipfile(file := io.BytesIO(content)):
        with zipfile.ZipFile(file) as members:
            if sum(member.file_size for member in members.infolist()) > len(content):  # torch compresses nothing
                raise PickleError("torch.storage._load_from_bytes of compressed bytes")
    storage = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    if not isinstance(storage, torch.storage.TypedStorage):
        raise PickleError(f"torch.storage._load_from_bytes of a {type(storage).__name__}")
    return storage


def _tensor(storage: Any, offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
    if not isinstance(storage, torch.storage.TypedStorage):
        raise PickleError(f"a tensor in a {type(storage).__name__}")
    if math.prod(size) > storage._size():  # with strides of zero, a few bytes are a tensor of any size
        raise PickleError(f"a tensor of size {tuple(size)} in a storage of {storage._size()} numbers")
    return torch._utils._rebuild_tensor(storage, offset, size, stride)  # type: ignore[attr-defined]


def _parameter(data: Tensor, *_: Any) -> Tensor:
    return data


class Kind:
    """A pickled numpy.dtype, reduced to its name and byte order.

    numpy's own class takes flags and fields from the file, which can turn bytes into pointers.
    """

    def __init__(self, name: Any, *_: Any) -> None:
        self.name = name
        self.order: Any = "="

    def __setstate__(self, state: Any) -> None:
        self.order = state[1]

    def dtype(self) -> np.dtype:
        """numpy's dtype of that name and byte order. Raises PickleError for anything but numbers."""
        dtype = np.dtype(self.name) if isinstance(self.name, str) else None
        if dtype is None or dtype.kind not in NUMBERS or self.order not in tuple("<>=|"):
            raise PickleError("a numpy scalar that is not a number")
        return dtype.newbyteorder(self.order)


def _scalar(kind: Any, content: Any = b"") -> Any:
    if not isinstance(kind, Kind) or not isinstance(content, bytes):
        raise PickleError("a numpy scalar that is not a number")
    return np.frombuffer(content, kind.dtype())[0].item()


def _bytes(text: str, encoding: str) -> bytes:
    """Decode bytes as protocols before 3 write them."""
    if encoding != "latin1":
        raise PickleError(f"_codecs.encode with {encoding!r}")
    return text.encode("latin1")


def _check_keys(keys: Iterable[Any]) -> None:
    if not all(isinstance(key, SCALARS) for key in keys):
        raise PickleError("a key that is no text and no number")


class _OrderedDict(OrderedDict[Any, Any]):
    """A dict whose keys are scalars."""

    def __init__(self, pairs: Iterable[tuple[Any, Any]] = ()) -> None:
        pairs = list(pairs)
        _check_keys(key for key, _ in pairs)
        super().__init__(pairs)


def _set(items: Iterable[Any] = ()) -> set[Any]:
    items = list(items)
    _check_keys(items)
    return set(items)


def _frozenset(items: Iterable[Any] = ()) -> frozenset[Any]:
    return frozenset(_set(items))


ADMITTED: dict[str, Callable[..., Any]] = {
    "torch_utils.persistence._reconstruct_persistent_obj": _persistent,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch.storage._load_from_bytes": _storage,
    "torch.Size": tuple,
    "collections.OrderedDict": _OrderedDict,
    "dnnlib.util.EasyDict": _OrderedDict,
    "copyreg._reconstructor": _new,
    "copy_reg._reconstructor": _new,
    "numpy.dtype": Kind,
    "_codecs.encode": _bytes,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy._core.multiarray.scalar": _scalar,
    **{f"{builtins}.set": _set for builtins in ("builtins", "__builtin__")},
    **{f"{builtins}.frozenset": _frozenset for builtins in ("builtins", "__builtin__")},
}


class PlainUnpickler(IN_PYTHON):
    """An unpickler that admits tensors, plain containers and numbers.

    A module of torch becomes inert; every other global is refused.
    """

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full in ADMITTED:
            return ADMITTED[full]
        if module.startswith("torch.nn.modules.") and name.isidentifier():
            return _inert(full)
        if full == "builtins.object":
            return None  # copyreg names this class as a base and never calls it
        raise PickleError(f"it asks for {full}, which plain weights do not need")

    def load_build(self) -> None:
        """Set the state of inert objects only: on a tensor, storage or function it could set any attribute."""
        if not isinstance(self.stack[-2], Inert | Kind):
            raise PickleError(f"it sets the state of a {type(self.stack[-2]).__name__}")
        super().load_build()

    def load_setitem(self) -> None:
        """Set an item whose key is a scalar."""
        _check_keys(self.stack[-2:-1])
        super().load_setitem()

    def load_setitems(self) -> None:
        """Set items whose keys are scalars; until `super` takes them, the stack holds keys and values in turn."""
        _check_keys(self.stack[::2])
        super().load_setitems()

    def load_dict(self) -> None:
        """Make a dict whose keys are scalars."""
        _check_keys(self.stack[::2])
        super().load_dict()

    def load_additems(self) -> None:
        """Add scalars to a set."""
        _check_keys(self.stack)
        super().load_additems()

    def load_frozenset(self) -> None:
        """Make a frozenset of scalars."""
        _check_keys(self.stack)
        super().load_frozenset()

    dispatch: ClassVar = {
        **IN_PYTHON.dispatch,
        pickle.BUILD[0]: load_build,
        pickle.SETITEM[0]: load_setitem,
        pickle.SETITEMS[0]: load_setitems,
        pickle.DICT[0]: load_dict,
        pickle.ADDITEMS[0]: load_additems,
        pickle.FROZENSET[0]: load_frozenset,
    }


def _count(value: Any, counts: dict[int, int]) -> int:
    """Return the size of a value that is written out, in bytes or values. counts: sizes so far, by the id of an object.

    Raises PickleError for a value that contains itself.
    """
    if isinstance(value, str | bytes):
        return 1 + len(value)
    if isinstance(value, Tensor):
        return 1 + value.numel() * value.element_size()
    parts = value.state if isinstance(value, Inert) else value
    if not isinstance(parts, dict | list | tuple | set | frozenset):
        return 1
    if id(value) not in counts:
        counts[id(value)] = -1  # while its parts are counted
        inner = parts.values() if isinstance(parts, dict) else parts
        counts[id(value)] = 1 + sum(_count(part, counts) for part in inner)
    if counts[id(value)] < 0:
        raise PickleError("a value that contains itself")
    return counts[id(value)]


def read_checkpoint(file: Path, key: str = "ema") -> Inert:
    """Read the network under `key`. Raises PickleError, naming the object, if the file holds more than plain data."""
    try:
        with file.open("rb") as stream:
            content = PlainUnpickler(stream).load()
        network = content.get(key) if isinstance(content, dict) else None
        if _count(network, {}) > EXPANSION * file.stat().st_size + LEAST_SIZE:
            raise PickleError("it names some values so often that, written out, they would fill the memory")
    except PickleError as e:
        raise PickleError(f"{file} is refused: {e}") from None
    except OSError as e:
        raise PickleError(f"{file}: {e.strerror or e}") from None
    except Exception as e:  # a damaged pickle raises errors of almost any type
        raise PickleError(f"{file} is not a checkpoint that can be read ({type(e).__name__})") from None
    if not isinstance(network, Inert):
        raise PickleError(f"{file} holds no network named {key!r}")
    return network
