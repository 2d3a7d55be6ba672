"""Between images and what a network works on: the pixels themselves, or a VAE's latents."""

from typing import Any

import torch
from torch import Tensor, nn

from dmd.shards import Images

CHUNK = 256  # images that pass through a VAE at once


class Pixels(nn.Module):
    """The network works on the image."""

    def decode(self, x: Tensor) -> Tensor:
        """[B, C, H, W], unchanged."""
        return x

    def image_shape(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        return shape


class Latents(nn.Module):
    """The network works on latents of an AutoencoderKL, scaled and shifted as Stable Diffusion does."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae
        self.scale = vae.config.scaling_factor
        self.shift = vae.config.shift_factor or 0.0

    @torch.no_grad()
    def encode(self, images: Images | Tensor) -> Tensor:
        """[B, C, H, W] in [-1, 1] -> latents, the mean of their distribution, where the images were."""
        latents = (
            self.vae.encode(part.to(self.vae.device)).latent_dist.mode().to(part.device) for part in images.split(CHUNK)
        )
        return (torch.cat(list(latents)) - self.shift) * self.scale

    @torch.no_grad()
    def decode(self, x: Tensor) -> Tensor:
        """Latents -> images [B, C, H, W], about [-1, 1]."""
        return torch.cat([self.vae.decode(part / self.scale + self.shift).sample for part in x.split(CHUNK)])

    def image_shape(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """(C, H, W) of the image that latents of that shape become."""
        factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        return self.vae.config.out_channels, shape[1] * factor, shape[2] * factor


PIXELS = Pixels()
Codec = Pixels | Latents
