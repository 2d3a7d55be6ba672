"""The kinds of training whose blocks are measured: all methods, and DMD2 with a discriminator on the frozen teacher."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from benchmarks.block import CLASSES, IMAGES, Size, new_block
from dmd.config import MomentsConfig
from dmd.diffusion.denoiser import Denoiser, Guided
from dmd.distillation.methods import METHODS
from dmd.features.frozen import FrozenNetwork, Level

Block = tuple[Any, Iterator[dict[str, Any]]]  # the state of a training, and its blocks
FROZEN = "dmd2, frozen trunk"
NETWORK = "own"  # name of the frozen network of images


@dataclass(frozen=True)
class Case:
    """A method, and the trunk that its discriminator reads, if it has one."""

    method: str
    trunk: str = "critic"
    matches_features: bool = False  # it compares features of a frozen network of images
    is_guided: bool = False  # its teacher has guidance

    def count_turns(self, size: Size) -> int:
        """Turns of a block."""
        if self.matches_features:
            return 1
        if self.method == "gdd":
            return 2
        return size.critic_turns + (1 if self.trunk == "critic" else 2)


CASES = {name: Case(name) for name in METHODS} | {
    "gdd": Case("gdd", "teacher"),
    "fd_loss": Case("fd_loss", matches_features=True),
    "mmd_loss": Case("mmd_loss", matches_features=True),
    "decoupled": Case("decoupled", is_guided=True),
    FROZEN: Case("dmd2", "teacher"),
}


def new_case(name: str, size: Size, blocks: int, net: nn.Module | None = None, device: str = "cpu") -> Block:
    """The state and the blocks of a case. net: a network in place of the size's UNet."""
    case = CASES[name]
    more: dict[str, Any] = {}
    if case.matches_features:
        moments = MomentsConfig(networks=[NETWORK], levels="last", decay=0.999, images=IMAGES, landmarks=IMAGES)
        more = {"options": {"moments": moments}, "frozen": {NETWORK: small_network(size.image_channels)}}
    if case.is_guided:
        more["guide"] = guide
    return new_block(size, case.method, blocks, net, case.trunk, device, **more)


def guide(denoiser: Denoiser) -> Guided:
    """The teacher with classifier-free guidance."""
    return Guided(denoiser, 2.0, CLASSES)


def small_network(channels: int) -> FrozenNetwork:
    """A frozen network of images with two convolutions."""
    outer, inner = nn.Conv2d(channels, 16, 4, stride=2, padding=1), nn.Conv2d(16, 32, 4, stride=2, padding=1)
    net = nn.Sequential(outer, nn.SiLU(), inner)
    return FrozenNetwork(net, "small", lambda x: x, [Level("outer", outer), Level("inner", inner)])
