"""The codec of a latent diffusion model: images to latents of its VAE and back."""

from typing import Any

import torch
from torch import Tensor, nn

from dmd.codecs.pixels import Pixels
from dmd.data.shards import Images

AT_ONCE = 256  # images that pass through a VAE at once, at most
PIXELS_AT_ONCE = AT_ONCE * 64 * 64  # of all of them


def at_once(height: int, width: int) -> int:
    """Images of that size that pass through a VAE at once: its activations take memory by the pixel."""
    return max(1, min(AT_ONCE, PIXELS_AT_ONCE // (height * width)))


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
        parts = images.split(at_once(*images.shape[2:]))
        latents = (self.vae.encode(part.to(self.vae.device)).latent_dist.mode().to(part.device) for part in parts)
        return (torch.cat(list(latents)) - self.shift) * self.scale

    @torch.no_grad()
    def decode(self, x: Tensor) -> Tensor:
        """Latents -> images [B, C, H, W], about [-1, 1]."""
        _, height, width = self.image_shape((x.shape[1], x.shape[2], x.shape[3]))
        parts = x.split(at_once(height, width))
        return torch.cat([self.vae.decode(part / self.scale + self.shift).sample for part in parts])

    def image_shape(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """(C, H, W) of the image that latents of that shape become."""
        factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        return self.vae.config.out_channels, shape[1] * factor, shape[2] * factor


Codec = Pixels | Latents
