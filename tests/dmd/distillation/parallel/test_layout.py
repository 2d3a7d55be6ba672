"""FSDP lays out small blocks of every network, and no weights that adapters share."""

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from benchmarks.memory import FAMILIES, params_of
from dmd.diffusion.denoiser import Denoiser
from dmd.distillation.lora import student, with_adapters
from dmd.distillation.parallel.sharding import Placement, blocks_of
from dmd.networks.wrapper import unwrap
from flows.plan.network_config import blank_teacher
from tests.helpers.networks import CPU

META = torch.device("meta")


@pytest.fixture
def two_processes() -> Iterator[None]:
    """The first of two processes, whose messages go nowhere."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    yield
    dist.destroy_process_group()


def denoiser(family: str, device: torch.device) -> Denoiser:
    """A small network of a family."""
    return blank_teacher(params_of({}), FAMILIES[family], device).denoiser


def held(nets: list[Denoiser]) -> int:
    """Bytes of the weights that this process holds of some networks, each once."""
    tensors = [p.to_local() if isinstance(p, DTensor) else p for net in nets for p in net.parameters()]
    return sum({t.untyped_storage()._cdata: t.nbytes for t in tensors}.values())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_network_with_adapters_has_the_blocks_of_one_without(family: str) -> None:
    plain = denoiser(family, META)
    with META:
        adapted = with_adapters(plain, 2, 0)
    names = [[type(block).__name__ for block in blocks_of(d.net)] for d in (plain, adapted)]
    assert names[0] == names[1] and len(names[0]) >= 8


@pytest.mark.parametrize("family", FAMILIES)
def test_no_block_is_large_and_none_lies_inside_another(family: str) -> None:
    net = denoiser(family, META).net
    blocks = list(blocks_of(net))
    sizes = [sum(p.numel() for p in block.parameters()) for block in blocks]
    whole = sum(p.numel() for p in unwrap(net).parameters())
    assert max(sizes) < 0.3 * whole and sum(sizes) > 0.5 * whole
    inside = {module for block in blocks for module in block.modules() if module is not block}
    assert not inside & set(blocks)
    assert not [block for block in blocks if isinstance(block, nn.Linear | nn.Dropout)]


def test_weights_that_adapters_share_stay_in_one_copy(two_processes: None) -> None:
    teacher = denoiser("SD3", CPU)
    nets = [teacher, with_adapters(teacher, 2, 0), with_adapters(teacher, 2, 0)]
    base = sum(p.nbytes for p in teacher.parameters())
    trained = sum(p.nbytes for net in nets for p in net.parameters() if p.requires_grad)
    Placement("full").place([net.net for net in nets])
    assert held(nets) == pytest.approx(base + trained / 2, rel=0.01)
    assert all(isinstance(p, DTensor) == p.requires_grad for net in nets[1:] for p in net.net.parameters())


def test_a_teacher_of_its_own_is_divided(two_processes: None) -> None:
    teacher = denoiser("SD3", CPU)
    nets = [teacher, student(teacher, 0, 0)]
    base = sum(p.nbytes for p in teacher.parameters())
    Placement("full").place([net.net for net in nets])
    assert held(nets) == pytest.approx(base, rel=0.05)
    assert all(isinstance(p, DTensor) for net in nets for p in net.net.parameters())
