"""The codec of a latent diffusion model: encodes images to latents of its VAE and decodes them."""

from typing import Any

import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_img2img import retrieve_latents
from torch import Tensor, nn
from torch.nn import functional as F

from dmd.codecs.layouts import layout_of
from dmd.codecs.pixels import Pixels
from dmd.data.shards import Images
from dmd.networks.half import own_precision

IMAGES_AT_ONCE = 256  # largest batch of a VAE
PIXELS_AT_ONCE = IMAGES_AT_ONCE * 64 * 64  # largest number of pixels in such a batch


def vae_batch_size(height: int, width: int) -> int:
    """Return the batch size of a VAE for an image size; the memory of its activations grows with the pixels."""
    return max(1, min(IMAGES_AT_ONCE, PIXELS_AT_ONCE // (height * width)))


class Latents(nn.Module):
    """The codec of a network that works on latents of a VAE, scaled and shifted as Stable Diffusion does.

    The VAE may give a distribution of latents, whose mode is taken, or the latents themselves (AutoencoderTiny). One
    whose weights are in bfloat16 encodes in that type.
    """

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae
        self.layout = layout_of(vae)
        self.scale, self.shift = self.layout.statistics(vae)

    @torch.no_grad()
    def encode(self, images: Images | Tensor) -> Tensor:
        """Encode images [B, C, H, W] in [-1, 1] to the means of their latents, on the device of the images."""
        parts = images.split(vae_batch_size(*images.shape[2:]))
        latents = (self.encode_raw(part.to(self.vae.device)).to(part.device) for part in parts)
        raw = torch.cat(list(latents))
        return (raw - _near(self.shift, raw)) * _near(self.scale, raw)

    def encode_raw(self, images: Tensor) -> Tensor:
        """Encode images [B, C, H, W] on the VAE's device, in one batch, to latents that are not scaled."""
        with own_precision(self.vae, images):
            encoded = self.vae.encode(images[:, :, None] if self.layout.takes_video else images)
        if hasattr(encoded, "latent"):  # AutoencoderDC
            return encoded.latent.to(images.dtype)
        latents = retrieve_latents(encoded, sample_mode="argmax")  # the mode of a distribution
        latents = latents[:, :, 0] if self.layout.takes_video else latents
        return F.pixel_unshuffle(latents, self.layout.block).to(images.dtype)

    @torch.no_grad()
    def decode(self, x: Tensor) -> Tensor:
        """Decode latents to images [B, C, H, W], approximately in [-1, 1]."""
        _, height, width = self.image_shape((x.shape[1], x.shape[2], x.shape[3]))
        parts = x.split(vae_batch_size(height, width))
        return torch.cat([self._decode(part / _near(self.scale, x) + _near(self.shift, x)) for part in parts])

    def _decode(self, latents: Tensor) -> Tensor:
        latents = F.pixel_shuffle(latents, self.layout.block)
        if self.layout.takes_video:
            return self.vae.decode(latents[:, :, None]).sample[:, :, 0]
        return self.vae.decode(latents).sample

    def image_shape(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Return (C, H, W) of the image that latents of `shape` become."""
        config = self.vae.config
        factor = self.layout.downscaling(config)
        return self.layout.image_channels(config), shape[1] * factor, shape[2] * factor


def _near(value: float | Tensor, x: Tensor) -> float | Tensor:
    """Return a number as it is, a tensor on the device of x."""
    return value.to(x.device) if isinstance(value, Tensor) else value


Codec = Pixels | Latents
