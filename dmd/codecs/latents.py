"""The codec of a latent diffusion model: encodes images to latents of its VAE and decodes them."""

from typing import Any

import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_img2img import retrieve_latents
from torch import Tensor, nn

from dmd.codecs.pixels import Pixels
from dmd.data.shards import Images

IMAGES_AT_ONCE = 256  # largest batch of a VAE
PIXELS_AT_ONCE = IMAGES_AT_ONCE * 64 * 64  # largest number of pixels in such a batch


def vae_batch_size(height: int, width: int) -> int:
    """Return the batch size of a VAE for an image size; the memory of its activations grows with the pixels."""
    return max(1, min(IMAGES_AT_ONCE, PIXELS_AT_ONCE // (height * width)))


def downscaling(config: Any) -> int:
    """Return the pixels on a side of the image for each on a side of the latents. config: of a VAE of diffusers."""
    return 2 ** (len(config.block_out_channels) - 1)


class Latents(nn.Module):
    """The codec of a network that works on latents of a VAE, scaled and shifted as Stable Diffusion does.

    The VAE may give a distribution of latents, whose mode is taken, or the latents themselves (AutoencoderTiny).
    """

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae
        self.scale = vae.config.scaling_factor
        self.shift = vae.config.get("shift_factor") or 0.0  # most VAEs have none

    @torch.no_grad()
    def encode(self, images: Images | Tensor) -> Tensor:
        """Encode images [B, C, H, W] in [-1, 1] to the means of their latents, on the device of the images."""
        parts = images.split(vae_batch_size(*images.shape[2:]))
        latents = (self._encode(part.to(self.vae.device)).to(part.device) for part in parts)
        return (torch.cat(list(latents)) - self.shift) * self.scale

    def _encode(self, images: Tensor) -> Tensor:
        return retrieve_latents(self.vae.encode(images), sample_mode="argmax")  # the mode of a distribution

    @torch.no_grad()
    def decode(self, x: Tensor) -> Tensor:
        """Decode latents to images [B, C, H, W], approximately in [-1, 1]."""
        _, height, width = self.image_shape((x.shape[1], x.shape[2], x.shape[3]))
        parts = x.split(vae_batch_size(height, width))
        return torch.cat([self.vae.decode(part / self.scale + self.shift).sample for part in parts])

    def image_shape(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Return (C, H, W) of the image that latents of `shape` become."""
        factor = downscaling(self.vae.config)
        return self.vae.config.out_channels, shape[1] * factor, shape[2] * factor


Codec = Pixels | Latents
