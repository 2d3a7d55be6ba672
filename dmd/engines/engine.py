"""Engines that run the network of a generator: PyTorch's eager mode, its compiler, ONNX Runtime or OpenVINO.

An engine replaces the network alone. Noise, conditions and steps stay those of dmd/samplers, so the images of all
engines agree up to rounding.
"""

import copy
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from dmd.engines.exported import onnx_network, openvino_network
from dmd.errors import EngineError
from dmd.generator.generator import Generator

EAGER = "torch"


def compiled_network(generator: Generator) -> nn.Module:
    """The network inside torch.compile; its first call for each batch size takes seconds to minutes."""
    return torch.compile(generator.denoiser.net)  # type: ignore[return-value]


ENGINES: dict[str, Callable[[Generator], nn.Module]] = {
    EAGER: lambda generator: generator.denoiser.net,
    "compile": compiled_network,
    "onnx": onnx_network,
    "openvino": openvino_network,
}


def with_engine(generator: Generator, engine: str) -> Generator:
    """The generator with its network in an engine of ENGINES; `generator` itself stays as it is.

    Raises EngineError if the engine is unknown, if a package is missing, or if the network cannot be exported.
    """
    if engine not in ENGINES:
        raise EngineError(f"engine {engine!r} is not known; use {', '.join(ENGINES)}")
    denoiser = copy.copy(generator.denoiser)
    denoiser._modules = dict(denoiser._modules)  # a shallow copy shares the table of submodules
    denoiser.net = ENGINES[engine](generator)
    return replace(generator, denoiser=denoiser)
