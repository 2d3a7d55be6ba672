"""The network of a generator as an ONNX file, run by ONNX Runtime or by OpenVINO on the CPU.

The file lives in a temporary folder while it is loaded: it is made anew from the generator's folder, so it cannot
differ from it.
"""

import tempfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from dmd.errors import EngineError, one_line
from dmd.generator.generator import Generator

PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("onnx", "onnxscript", "openvino")}
EXAMPLES = 2  # images of the example that is traced; a dimension of 1 would become a constant

Run = Callable[[list[np.ndarray]], np.ndarray]  # the inputs of the network in their order -> its output


class Inputs(NamedTuple):
    """The arguments of a call of a network: tensors with a dimension for the batch, and numbers that never change."""

    tensors: tuple[Tensor, ...]  # x, time, and class labels if there are any
    fixed: dict[str, Any]


class _Capture(nn.Module):
    """Keeps the inputs of its last call."""

    inputs: Inputs

    def forward(self, x: Tensor, time: Tensor, class_labels: Tensor | None = None, **fixed: Any) -> None:
        self.inputs = Inputs((x, time) if class_labels is None else (x, time, class_labels), fixed)


class _Function(nn.Module):
    """A network as a function of tensors, as exporters need it."""

    def __init__(self, net: nn.Module, fixed: dict[str, Any]) -> None:
        super().__init__()
        self.net, self.fixed = net, fixed

    def forward(self, x: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        more = self.fixed if labels is None else {"class_labels": labels, **self.fixed}
        return self.net(x, time, **more).sample


class ExportedNetwork(nn.Module):
    """A network that another library runs. It keeps the original, whose weights say device and precision."""

    def __init__(self, original: nn.Module, run: Run) -> None:
        super().__init__()
        self.original, self.run = original, run

    def forward(self, x: Tensor, time: Tensor, class_labels: Tensor | None = None, **fixed: Any) -> SimpleNamespace:
        """Predict as the original does. The values of `fixed` are those of the export."""
        tensors = (x, time) if class_labels is None else (x, time, class_labels)
        output = self.run([t.detach().contiguous().numpy() for t in tensors])
        return SimpleNamespace(sample=torch.from_numpy(output))


def onnx_network(generator: Generator) -> nn.Module:
    """The network in ONNX Runtime, with as many threads as torch has. Raises EngineError."""
    runtime = _require("onnx")

    def load(file: Path) -> Run:
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = runtime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        names = [value.name for value in session.get_inputs()]
        return lambda arrays: session.run(None, dict(zip(names, arrays, strict=True)))[0]

    return _export(generator, load, "onnx")


def openvino_network(generator: Generator) -> nn.Module:
    """The network in OpenVINO, in float32 and with as many threads as torch has. Raises EngineError."""
    openvino = _require("openvino")

    def load(file: Path) -> Run:
        settings = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
        model = openvino.Core().compile_model(str(file), "CPU", settings)
        return lambda arrays: np.array(model(arrays)[0])  # a copy: the next call writes into the same memory

    return _export(generator, load, "openvino")


def _require(engine: str) -> Any:
    """Import the packages of an engine; returns the last of them. Raises EngineError if one is not installed."""
    modules = []
    for name in PACKAGES[engine]:
        try:
            modules.append(import_module(name))
        except ModuleNotFoundError as e:
            raise EngineError(
                f"engine {engine} needs {name}, which is not installed; run pip install '.[{engine}]', or use torch"
            ) from e
    return modules[-1]


def _export(generator: Generator, load: Callable[[Path], Run], engine: str) -> nn.Module:
    """Export the network to a file, load it, and check its output against the original's. Raises EngineError."""
    net = generator.denoiser.net
    first = next(net.parameters())
    if first.device.type != "cpu" or any(p.dtype != torch.float32 for p in net.parameters()):
        raise EngineError(f"engine {engine} runs float32 networks on the CPU; use --device cpu, or engine compile")
    tensors, fixed = _example(generator)
    function = _Function(net, fixed).eval()
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        file = Path(folder) / "network.onnx"
        try:
            _write(function, tensors, file)
            run = load(file)
        except Exception as e:  # exporters and runtimes share no class of errors
            raise EngineError(f"engine {engine} cannot run this network ({one_line(e)}); use torch or compile") from e
        expected, output = function(*tensors), torch.from_numpy(run([t.numpy() for t in tensors]))
    if not torch.allclose(output, expected, rtol=1e-3, atol=1e-3):
        worst = (output - expected).abs().max().item()
        raise EngineError(f"engine {engine} changes the network's output by {worst:.2g}; use torch or compile")
    return ExportedNetwork(net, run)


def _write(function: nn.Module, tensors: tuple[Tensor, ...], file: Path) -> None:
    """Write the ONNX file of a function whose inputs have a batch of any size."""
    batch = tuple({0: torch.export.Dim.DYNAMIC} for _ in tensors)
    program = torch.onnx.export(function, tensors, dynamo=True, dynamic_shapes=batch, verbose=False)
    assert program is not None
    program.save(file)


def _example(generator: Generator) -> Inputs:
    """The inputs of the network in the generator's first step, for a few images of the first label."""
    denoiser, capture = generator.denoiser, _Capture()
    t = torch.full((EXAMPLES,), generator.times[0])
    cond = torch.zeros(EXAMPLES, dtype=torch.long) if generator.classes else None
    z = torch.randn(EXAMPLES, *generator.shape, generator=torch.Generator().manual_seed(0))
    denoiser.run(capture, denoiser.process.prior(z, t), t, cond)
    return capture.inputs
