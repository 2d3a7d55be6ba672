"""A generator's network in another engine makes the images of the eager one; what an engine cannot do is one line."""

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dmd import sample
from dmd.engines import engine as module
from dmd.engines import exported
from dmd.engines.engine import ENGINES, with_engine
from dmd.engines.exported import PACKAGES
from dmd.errors import EngineError
from dmd.generator.generator import Generator, load_generator
from dmd.teachers.teacher import Teacher
from tests.helpers.teachers.generators import generator_folder

LABELS = torch.tensor([3, 1, 4, 1, 5])


@pytest.fixture
def generator(teacher: Teacher, tmp_path: Path) -> Generator:
    """A generator of two steps with labels."""
    generator_folder(teacher, tmp_path / "generator", 999, 499)
    return load_generator(tmp_path / "generator")


def draw(generator: Generator, batch_size: int) -> torch.Tensor:
    return generator.sampler().draw(LABELS, seed=0, batch_size=batch_size).int()


@pytest.mark.parametrize("name", PACKAGES)
def test_an_exported_network_makes_the_same_images_in_batches_of_any_size(generator: Generator, name: str) -> None:
    for package in PACKAGES[name]:
        pytest.importorskip(package)
    other = with_engine(generator, name)
    for batch_size in (1, 2, 5):
        assert (draw(other, batch_size) - draw(generator, batch_size)).abs().max() <= 1
    assert type(generator.denoiser.net) is not type(other.denoiser.net)
    labels = torch.tensor([0, 7])
    x, t = torch.randn(2, *generator.shape), torch.tensor([999, 499])
    with torch.no_grad():
        torch.testing.assert_close(other.denoiser(x, t, labels), generator.denoiser(x, t, labels), rtol=1e-4, atol=1e-4)


def test_a_compiled_network_makes_the_same_images(generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = torch.compile
    monkeypatch.setattr(module.torch, "compile", lambda net: compiler(net, backend="eager"))
    other = with_engine(generator, "compile")
    assert torch.equal(draw(other, 5), draw(generator, 5)) and other.denoiser.net is not generator.denoiser.net


def test_a_missing_package_and_an_unknown_engine_are_one_line(
    generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> Any:
        if name == "onnxscript":
            raise ModuleNotFoundError(name)
        return import_module("json")

    monkeypatch.setattr(exported, "import_module", missing)
    with pytest.raises(EngineError, match=r"openvino needs onnxscript, .* run pip install '\.\[openvino\]'"):
        with_engine(generator, "openvino")
    with pytest.raises(EngineError, match="engine 'x' is not known; use torch, compile, onnx, openvino"):
        with_engine(generator, "x")


def test_an_engine_that_changes_the_output_or_cannot_load_is_refused(
    generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exported, "_write", lambda *_: None)
    with pytest.raises(EngineError, match=r"engine onnx changes the network's output by [0-9.]+; use torch"):
        exported._export(generator, lambda _: lambda arrays: arrays[0] + 1, "onnx")

    def fail(_file: Path) -> exported.Run:
        raise RuntimeError("no kernel\nfor Where")

    with pytest.raises(EngineError, match=r"engine onnx cannot run this network \(no kernel for Where\)"):
        exported._export(generator, fail, "onnx")
    generator.denoiser.net.to(torch.bfloat16)
    with pytest.raises(EngineError, match="engine onnx runs float32 networks on the CPU"):
        exported._export(generator, fail, "onnx")


def test_the_inputs_of_the_example_are_those_of_a_call(generator: Generator) -> None:
    seen: list[tuple[Any, ...]] = []

    class Watched(nn.Module):
        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.net = net

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            seen.append((*args, *kwargs.values()))
            return self.net(*args, **kwargs)

    tensors, fixed = exported._example(generator)
    generator.denoiser.net = Watched(generator.denoiser.net)
    draw(generator, 2)
    assert fixed == {} and [t.dtype for t in tensors] == [t.dtype for t in seen[0]]
    assert [t.shape for t in tensors] == [t.shape for t in seen[0]]
    assert torch.equal(tensors[1], seen[0][1])  # the time of the first step


def test_the_command_offers_every_engine() -> None:
    assert tuple(ENGINES) == sample.ENGINES
