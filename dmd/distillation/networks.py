"""The networks of a distillation, and which of them trains in a turn."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, cast

from torch import nn

from dmd.diffusion.denoiser import Denoiser
from dmd.distillation.gan.discriminator import Discriminator

TRAINED = ("generator", "critic")  # a turn has the name of the network that it trains


class Checkpointing(Protocol):
    """A network of diffusers that can recompute its activations in the backward pass."""

    def enable_gradient_checkpointing(self) -> None: ...


@dataclass(frozen=True)
class Networks:
    """The frozen teacher, with guidance if its scale is above 1, and generator and critic, which start as its copies.

    The discriminator, if there is one, is a set of heads on the critic and trains in the critic's turn.
    """

    teacher: Denoiser
    generator: Denoiser
    critic: Denoiser
    discriminator: Discriminator | None = None

    def trained_in(self, network: str) -> nn.Module:
        """The modules that train in the turn of a network; the discriminator belongs to the critic's turn."""
        critic = self.critic if self.discriminator is None else nn.ModuleList([self.critic, self.discriminator])
        return {"generator": self.generator, "critic": critic}[network]

    def modules(self) -> list[nn.Module]:
        """The modules that run a forward pass by themselves."""
        heads = [] if self.discriminator is None else self.discriminator.heads
        return [self.teacher.net, self.generator.net, self.critic.net, *heads]

    @contextmanager
    def only_training(self, network: str) -> Iterator[nn.Module]:
        """Yield the modules that train in the turn of a network, while every other network takes no gradient.

        The GAN loss's gradients still pass through the critic to the generator's images.
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
