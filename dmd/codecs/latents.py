"""The codec of a latent diffusion model: encodes images to latents of its VAE and decodes them."""

from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from dmd.codecs.pixels import Pixels
from dmd.data.shards import Images

IMAGES_AT_ONCE = 256  # largest batch of a VAE
PIXELS_AT_ONCE = IMAGES_AT_ONCE * 64 * 64  # largest number of pixels in such a batch


def vae_batch_size(height: int, width: int) -> int:
    """Return the batch size of a VAE for an image size; the memory of its activations grows with the pixels."""
    return max(1, min(IMAGES_AT_ONCE, PIXELS_AT_ONCE // (height * width)))


class Latents(nn.Module):
    """The codec of a network that works on latents of an AutoencoderKL, scaled and shifted as Stable Diffusion does."""

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.vae: Any = vae  # diffusers types its outputs as unions with tuples
        self.scale = self.vae.config.scaling_factor
        self.shift = self.vae.config.shift_factor or 0.0

    @torch.no_grad()
    def encode(self, images: Images | Tensor) -> Tensor:
        """Encode images [B, C, H, W] in [-1, 1] to the means of their latents, on the device of the images."""
        parts = images.split(vae_batch_size(*images.shape[2:]))
        latents = (self.vae.encode(part.to(self.vae.device)).latent_dist.mode().to(part.device) for part in parts)
        return (torch.cat(list(latents)) - self.shift) * self.scale

    @torch.no_grad()
    def decode(self, x: Tensor) -> Tensor:
        """Decode latents to images [B, C, H, W], approximately in [-1, 1]."""
        _, height, width = self.image_shape((x.shape[1], x.shape[2], x.shape[3]))
        parts = x.split(vae_batch_size(height, width))
        return torch.cat([self.vae.decode(part / self.scale + self.shift).sample for part in parts])

    def image_shape(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Return (C, H, W) of the image that latents of `shape` become."""
        factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        return self.vae.config.out_channels, shape[1] * factor, shape[2] * factor


Codec = Pixels | Latents
