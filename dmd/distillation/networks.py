"""The networks of a distillation, and which of them trains in a turn."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from diffusers.hooks import apply_group_offloading
from torch import Tensor, nn

from dmd.diffusion.denoiser import Denoiser
from dmd.distillation.gan.discriminator import Discriminator
from dmd.distillation.gan.trunk_discriminator import TrunkDiscriminator
from dmd.networks.compilation import compile_networks
from dmd.networks.wrapper import unwrap

TRAINED = ("generator", "critic", "discriminator")  # a turn has the name of the network that it trains
# Inside the blocks of a UNet of diffusers: the convolutions of residual blocks and of changes of resolution, and the
# projections after attention. Norms, time and label layers, queries, keys, values, 1x1 skips and the outer
# convolutions learn.
SPATIAL = re.compile(r"(^|\.)(conv1|conv2|(down|up)samplers\.\d+\.conv|to_out\.0)\.")


class Checkpointing(Protocol):
    """A network of diffusers that can recompute its activations in the backward pass."""

    def enable_gradient_checkpointing(self) -> None: ...


@dataclass(frozen=True)
class Networks:
    """The frozen teacher, with guidance if its scale is above 1, and generator and critic, which start as its copies.

    critic_heads, if there are any, read the critic's activations and train in its turn. The discriminator, if there is
    one, reads frozen trunks and trains in turns of its own. A method without a critic has the teacher in its place.
    critic_average, if there is one, predicts in the critic's place for the score difference. estimators hold statistics
    that a method updates after its turns. No optimizer trains these two, but checkpoints hold them.
    """

    teacher: Denoiser
    generator: Denoiser
    critic: Denoiser
    critic_heads: Discriminator | None = None
    discriminator: TrunkDiscriminator | None = None
    critic_average: Denoiser | None = None
    estimators: nn.Module | None = None

    @property
    def scorer(self) -> Denoiser:
        """The network that predicts x0 of generated images for the score difference: the critic or its average."""
        return self.critic if self.critic_average is None else self.critic_average

    @property
    def like(self) -> Tensor:
        """A weight of the generator that trains, with the type and device of noise and images."""
        return next(p for p in self.generator.parameters() if p.requires_grad)

    @property
    def trained(self) -> tuple[str, ...]:
        """Names of the networks that train."""
        return tuple(n for n in TRAINED if any(p.requires_grad for p in self.trained_in(n).parameters()))

    def trained_in(self, network: str) -> nn.Module:
        """The modules that train in the turn of a network; the critic's heads belong to the critic's turn."""
        critic = self.critic if self.critic_heads is None else nn.ModuleList([self.critic, self.critic_heads])
        discriminator = nn.ModuleList() if self.discriminator is None else self.discriminator
        return {"generator": self.generator, "critic": critic, "discriminator": discriminator}[network]

    def modules(self) -> list[nn.Module]:
        """The modules that run a forward pass by themselves and may be laid out over processes, each once.

        The heads on frozen trunks are none of them: they are small, and an exact penalty passes through their weights
        a second time, when FSDP would have dropped them.
        """
        heads = [] if self.critic_heads is None else self.critic_heads.heads
        denoisers = [self.teacher.net, self.generator.net, self.critic.net, self.scorer.net]
        return list(dict.fromkeys([*denoisers, *heads]))

    @contextmanager
    def only_training(self, network: str) -> Iterator[nn.Module]:
        """Yield the modules that train in the turn of a network, while every other network takes no gradient.

        The GAN loss's gradients still pass through critic and trunks to the generator's images.
        """
        others = [self.trained_in(name) for name in TRAINED if name != network]
        frozen = [p for other in others for p in other.parameters() if p.requires_grad]
        for p in frozen:
            p.requires_grad_(False)
        try:
            yield self.trained_in(network)
        finally:
            for p in frozen:
                p.requires_grad_(True)

    def checkpoint_gradients(self) -> None:
        """Recompute the activations of generator and critic in the backward pass, to save memory."""
        for denoiser in (self.generator, self.critic):
            cast(Checkpointing, denoiser.net).enable_gradient_checkpointing()

    def compile(self, mode: str) -> None:
        """Compile the networks that pass in turns, in place. Averages of the generator are copies and stay eager."""
        compile_networks([each.net for each in (self.teacher, self.generator, self.critic, self.scorer)], mode)

    def offload_teacher(self, device: torch.device) -> None:
        """Keep the teacher's weights in the memory of the CPU; each layer is on `device` while it runs.

        On a GPU, the next layer is copied while one runs. On a CPU, nothing moves.
        """
        apply_group_offloading(
            unwrap(self.teacher.net), device, offload_type="leaf_level", use_stream=device.type == "cuda"
        )


def freeze_spatial(generator: Denoiser) -> None:
    """Freeze spatial convolutions and attention projections of a UNet's blocks, as GDD-I does (Zheng and Yang 2024).

    Raises ValueError for a network that has none of them, such as a transformer of another layout.
    """
    frozen = [p for name, p in unwrap(generator.net).named_parameters() if SPATIAL.search(name)]
    if not frozen:
        raise ValueError("train.generator_parts: no_spatial needs a UNet with spatial convolutions; use all")
    for p in frozen:
        p.requires_grad_(False)
