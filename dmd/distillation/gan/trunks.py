"""Trunks of a discriminator: what its heads read, by the names in method.gan.trunks.

`critic`, `critic:encoder`, `image` and `detail` read a noised image, and their heads train with the critic, as in DMD2.
All others are frozen, and their heads train in turns of their own: `teacher` and `teacher:encoder` read a noised image,
`own` and the names of dmd.features.load a clean one.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dmd.diffusion.denoiser import Cond, Denoiser
from dmd.distillation.gan.activations import activations
from dmd.distillation.gan.mixing import Shape
from dmd.errors import FeatureNetworkError
from dmd.features.frozen import FrozenNetwork
from dmd.features.load import NetworkName
from dmd.features.own import OWN
from dmd.training.random_source import RandomSource

# What the heads that train in the critic's turn read: levels of the critic by their name in LEVELS, or the image.
OF_THE_CRITIC = {"critic": "innermost", "critic:encoder": "encoder", "image": "image", "detail": "detail"}
OF_THE_TEACHER = {"teacher": "innermost", "teacher:encoder": "encoder"}


class Trunk(Protocol):
    """Images [B, C, H, W] with their conditions [B] -> activations [B, C', H', W'] of each level."""

    def __call__(self, x: Tensor, cond: Cond, rng: RandomSource) -> list[Tensor]: ...


@dataclass(frozen=True)
class TeacherTrunk:
    """The teacher's activations at noise levels t in [low, high), drawn for each sample."""

    denoiser: Denoiser
    levels: str
    low: int
    high: int

    def __call__(self, x: Tensor, cond: Cond, rng: RandomSource) -> list[Tensor]:
        t = rng.integers(self.low, self.high)
        x_t = self.denoiser.process.add_noise(x, rng.noise_like(x), t)
        return activations(self.denoiser, x_t, t, cond, self.levels)


@dataclass(frozen=True)
class ImageTrunk:
    """The activations of a network that was trained on clean images."""

    net: FrozenNetwork

    def __call__(self, x: Tensor, cond: Cond, rng: RandomSource) -> list[Tensor]:
        return self.net(x)


def of_the_critic(trunks: Sequence[str]) -> str | None:
    """The first trunk whose heads train in the critic's turn."""
    return next((name for name in trunks if name in OF_THE_CRITIC), None)


def frozen(trunks: Iterable[str]) -> list[str]:
    """The trunks whose heads train in turns of their own."""
    return [name for name in trunks if name not in OF_THE_CRITIC]


def of_images(trunks: Iterable[str]) -> list[str]:
    """The frozen trunks that are no teacher: networks that need images, and weights from elsewhere."""
    return [name for name in frozen(trunks) if name not in OF_THE_TEACHER]


def new_trunks(
    names: Sequence[str], nets: Mapping[str, FrozenNetwork], teacher: Denoiser, low: int, high: int
) -> dict[str, Trunk]:
    """The frozen trunks by name. nets: the loaded networks; low and high: the teacher's range of noise levels."""
    return {
        name: TeacherTrunk(teacher, OF_THE_TEACHER[name], low, high)
        if name in OF_THE_TEACHER
        else ImageTrunk(nets[name])
        for name in frozen(names)
    }


@torch.no_grad()
def level_shapes(trunk: Trunk, shape: tuple[int, int, int], device: torch.device, has_labels: bool) -> list[Shape]:
    """(C, H, W) of each level, for images [C, H, W]."""
    rng = RandomSource(0, 0, "shapes", range(1), device)
    cond = torch.zeros(1, dtype=torch.long, device=device) if has_labels else None
    levels = trunk(torch.zeros(1, *shape, device=device), cond, rng)
    return [(level.shape[1], level.shape[2], level.shape[3]) for level in levels]


def find_mistakes(trunks: Sequence[str]) -> list[str]:
    """Problems with method.gan.trunks, one line each."""
    problems = []
    known = {*OF_THE_CRITIC, *OF_THE_TEACHER, OWN}
    for name in trunks:
        if name not in known:
            try:
                NetworkName.parse(name)
            except FeatureNetworkError as e:
                problems.append(f"method.gan.trunks: {e}, or of {', '.join(sorted(known))}")
    if len(set(trunks)) < len(trunks):
        problems.append("method.gan.trunks: a trunk is listed twice; list each once")
    if len(several := [name for name in trunks if name in OF_THE_CRITIC]) > 1:
        problems.append(f"method.gan.trunks: {', '.join(several)} exclude each other; list one of them")
    return problems
