"""Pickles of NVlabs' edm are read as plain data; the code in them never runs."""

import io
import os
import pickle
import subprocess
import sys
import types
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from dmd.edm.checkpoints import convert
from dmd.edm.pickles import ADMITTED, PlainUnpickler, read_checkpoint
from dmd.errors import PickleError
from tests.helpers.faults.pickles import Evil
from tests.helpers.projects import ROOT


class Persistent(nn.Module):
    """An object that pickles as edm's `persistence.persistent_class` does: source text, class name and state."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        self._init_args, self._init_kwargs = args, kwargs

    def __reduce__(self) -> Any:
        source = "import os\nos.environ['EDM_SOURCE_RAN'] = 'yes'\n"
        meta = {"type": "class", "version": 6, "module_src": source, "class_name": type(self).__name__}
        function = sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj  # type: ignore[attr-defined]
        return function, ({**meta, "state": self.__dict__},)


class SongUNet(Persistent):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.map_noise = nn.Linear(4, 4)
        self.enc = nn.ModuleDict({"8x8_conv": nn.Conv2d(3, 4, 3)})
        self.register_buffer("freqs", torch.arange(3.0))


class EDMPrecond(Persistent):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.sigma_data = np.float64(0.5)
        self.model = SongUNet(img_resolution=8, in_channels=3)


def _reconstruct_persistent_obj(meta: Any) -> Any:
    raise AssertionError("edm's own function ran")


@pytest.fixture
def as_edm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register a module under edm's name, which the pickler needs."""
    module: Any = types.ModuleType("torch_utils.persistence")
    monkeypatch.setattr(_reconstruct_persistent_obj, "__module__", "torch_utils.persistence")
    module._reconstruct_persistent_obj = _reconstruct_persistent_obj
    monkeypatch.setitem(sys.modules, "torch_utils", types.ModuleType("torch_utils"))
    monkeypatch.setitem(sys.modules, "torch_utils.persistence", module)


def checkpoint(file: Path, protocol: int = 4, **more: Any) -> nn.Module:
    """Write a checkpoint in edm's format, and return its network. more: further objects in the pickle."""
    torch.manual_seed(0)
    net = EDMPrecond(img_resolution=8, label_dim=0).eval().requires_grad_(False)
    file.write_bytes(pickle.dumps({"ema": net, "loss_fn": None, **more}, protocol=protocol))
    return net


@pytest.mark.usefixtures("as_edm")
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_checkpoint_gives_its_weights_and_arguments_without_running_code(tmp_path: Path, protocol: int) -> None:
    net = checkpoint(tmp_path / "edm.pkl", protocol)
    got = read_checkpoint(tmp_path / "edm.pkl")
    want = net.state_dict()
    assert got.tensors().keys() == want.keys()
    assert all(torch.equal(v, want[k]) for k, v in got.tensors().items())
    assert got.class_name == "EDMPrecond" and got.arguments() == {"img_resolution": 8, "label_dim": 0}
    assert got.state["_modules"]["model"].class_name == "SongUNet" and got.state["sigma_data"] == 0.5
    assert "EDM_SOURCE_RAN" not in os.environ


@pytest.mark.usefixtures("as_edm")
@pytest.mark.parametrize(
    ("function", "name"),
    [
        (os.system, "posix.system"),
        (eval, "builtins.eval"),
        (exec, "builtins.exec"),
        (getattr, "builtins.getattr"),
        (torch.load, "torch.serialization.load"),
        (subprocess.check_output, "subprocess.check_output"),
        (pickle.loads, "_pickle.loads"),
    ],
)
def test_any_other_global_is_an_error_before_it_runs(tmp_path: Path, function: Any, name: str) -> None:
    proof = tmp_path / "ran"
    checkpoint(tmp_path / "evil.pkl", extra=Evil(function, f"touch {proof}"))
    with pytest.raises(PickleError, match=name) as e:
        read_checkpoint(tmp_path / "evil.pkl")
    assert not proof.exists() and "\n" not in str(e.value)


@pytest.mark.usefixtures("as_edm")
def test_a_pickle_inside_a_tensor_is_an_error(tmp_path: Path) -> None:
    """torch's `_load_from_bytes` would unpickle it without a check."""
    proof, inner = tmp_path / "ran", io.BytesIO()
    torch.save(Evil(os.system, f"touch {proof}"), inner, _use_new_zipfile_serialization=False)
    checkpoint(tmp_path / "evil.pkl", extra=Evil(torch.storage._load_from_bytes, inner.getvalue()))
    with pytest.raises(PickleError, match="not a checkpoint that can be read"):
        read_checkpoint(tmp_path / "evil.pkl")
    assert not proof.exists()


class State:
    """An object that pickles as a call of an admitted function and a state to set on its result."""

    def __init__(self, function: Any, args: tuple[Any, ...], state: Any) -> None:
        self.call = function, args, state

    def __reduce__(self) -> Any:
        return self.call


SCALAR: Any = np.float64(0).__reduce__()[0]


def test_only_numbers_of_numpy_are_read(tmp_path: Path) -> None:
    """A forged object dtype would read 8 bytes as a pointer, and return the object at that address."""
    target = {"alive": True}
    fields = {"f0": (np.dtype("O"), 0)}
    forged = State(np.dtype, ("V8", False, True), (3, "|", None, ("f0",), fields, 8, 1, 0))
    for dtype in (forged, np.dtype("O"), np.dtype("V8"), np.dtype("f8,f8")):
        (tmp_path / "evil.pkl").write_bytes(pickle.dumps(Evil(SCALAR, dtype, id(target).to_bytes(8, "little"))))
        with pytest.raises(PickleError, match="numpy scalar that is not a number"):
            read_checkpoint(tmp_path / "evil.pkl")
    for value in (np.float64(0.5), np.float32(-2), np.int64(7), np.bool_(True), np.array(3.0, ">f8")[()]):
        for protocol in (2, 4):
            got = PlainUnpickler(io.BytesIO(pickle.dumps(value, protocol=protocol))).load()
            assert got == value and type(got) in (int, float, bool)
    big = Evil(SCALAR, State(np.dtype, ("f8",), (3, ">", None, None, None, -1, -1, 0)), np.array(3.0, ">f8").tobytes())
    assert PlainUnpickler(io.BytesIO(pickle.dumps(big))).load() == 3


def test_only_inert_objects_take_a_state(tmp_path: Path) -> None:
    """Otherwise a pickle could set attributes of any object, even of a function of this project."""
    storage = torch.storage.TypedStorage(2, dtype=torch.float32, _internal=True)
    function = b"cnumpy.core.multiarray\nscalar\n" + pickle.dumps({"__name__": "x"}, 0)[:-1] + b"b."
    for content, kind in (
        (pickle.dumps(State(OrderedDict, (), {"x": 1})), "OrderedDict"),
        (pickle.dumps(State(torch.storage._load_from_bytes, storage.__reduce__()[1], {"dtype": 1})), "TypedStorage"),
        (function, "function"),
    ):
        (tmp_path / "evil.pkl").write_bytes(content)
        with pytest.raises(PickleError, match=f"sets the state of a .*{kind}"):
            read_checkpoint(tmp_path / "evil.pkl")
    inner = io.BytesIO()
    torch.save(torch.float32, inner, _use_new_zipfile_serialization=False)
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(Evil(torch.storage._load_from_bytes, inner.getvalue())))
    with pytest.raises(PickleError, match="_load_from_bytes of a dtype"):
        read_checkpoint(tmp_path / "evil.pkl")


def test_admitted_names_run_no_code_from_a_pickle() -> None:
    """Every admitted name is a function of dmd.edm.pickles or a plain container; review each name that is added."""
    plain = {tuple, set, frozenset, OrderedDict}
    for name, function in ADMITTED.items():
        assert function in plain or function.__module__ == "dmd.edm.pickles", name
    assert not {"copyreg.__newobj__", "builtins.getattr", "functools.partial"} & ADMITTED.keys()
    with pytest.raises(PickleError, match="is not a module"):
        ADMITTED["copyreg._reconstructor"](dict, object, None)


@pytest.mark.parametrize(("content", "message"), [(b"", "EOFError"), (b"\x80\x04}.", "no network named 'ema'")])
def test_other_files_are_an_error(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.pkl").write_bytes(content)
    with pytest.raises(PickleError, match=message):
        read_checkpoint(tmp_path / "x.pkl")
    with pytest.raises(PickleError, match="No such file"):
        read_checkpoint(tmp_path / "none.pkl")


@pytest.mark.slow
@pytest.mark.usefixtures("as_edm")
def test_the_command_prints_the_network_and_writes_safetensors(tmp_path: Path) -> None:
    net = checkpoint(tmp_path / "edm.pkl")
    words = [sys.executable, "-m", "dmd.edm.checkpoints"]
    done = subprocess.run(
        [*words, tmp_path / "edm.pkl", tmp_path / "out"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "EDMPrecond(img_resolution=8, label_dim=0)" in done.stdout and "SongUNet(" in done.stdout
    assert "model.map_noise.weight [4, 4] float32" in done.stdout
    saved = load_file(tmp_path / "out/weights.safetensors")
    assert all(torch.equal(v, saved[k]) for k, v in net.state_dict().items())
    checkpoint(tmp_path / "evil.pkl", extra=Evil(os.system, "true"))
    refused = subprocess.run(
        [*words, tmp_path / "evil.pkl", tmp_path / "no"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert refused.returncode == 1 and refused.stderr.count("\n") == 1 and "posix.system" in refused.stderr
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("kind", ["_modules", "_parameters", "_init_args", "_init_kwargs"])
def test_a_network_whose_parts_are_something_else_is_one_line(tmp_path: Path, kind: str) -> None:
    net = nn.Linear(2, 2)
    net.__dict__[kind] = 5
    (tmp_path / "net.pkl").write_bytes(pickle.dumps({"ema": net}))
    with pytest.raises(PickleError, match="could not be converted") as e:
        convert(tmp_path / "net.pkl", tmp_path / "out")
    assert len(str(e.value).splitlines()) == 1 and not (tmp_path / "out").exists()


def test_a_tensor_is_no_larger_than_its_storage(tmp_path: Path) -> None:
    """With strides of zero, four bytes would be gigabytes in the copy that is written."""
    (tmp_path / "net.pkl").write_bytes(pickle.dumps({"ema": nn.Linear(2, 2), "more": torch.zeros(1).expand(10**9)}))
    with pytest.raises(PickleError, match=r"a tensor of size \(1000000000,\) in a storage of 1 numbers"):
        read_checkpoint(tmp_path / "net.pkl")
