"""The keys of VAE configs in diffusers, which differ between classes: channels, levels and scale of the latents."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """Names of the keys in the config of one class of VAE, and what their values mean for its latents."""

    keys: tuple[str, ...]  # keys that the config must have
    levels: str  # the key that lists the encoder's levels; each but the first halves the image
    out_channels: str = "out_channels"
    latent_channels: str = "latent_channels"
    takes_video: bool = False  # images are videos [B, C, 1, H, W] of one frame
    block: int = 1  # side of the block of latents whose values are the channels of one
    in_batch_norm: bool = False  # the statistics are weights, those of a batch norm

    def statistics(self, vae: Any) -> tuple[float | Tensor, float | Tensor]:
        """Return (factor, mean), each a number or [C, 1, 1]. The network takes (latents - mean) * factor."""
        config = vae.config
        if self.in_batch_norm:
            mean, variance = (v.float()[:, None, None] for v in (vae.bn.running_mean, vae.bn.running_var))
            return (variance + config["batch_norm_eps"]).rsqrt(), mean
        if self.takes_video:  # means and standard deviations of each channel
            mean, std = (torch.tensor(config[key])[:, None, None] for key in ("latents_mean", "latents_std"))
            return 1 / std, mean
        return config["scaling_factor"], config.get("shift_factor") or 0.0  # most VAEs have no shift

    def channels(self, config: Any) -> int:
        """Return the number of channels of the latents."""
        return config[self.latent_channels] * self.block**2

    def image_channels(self, config: Any) -> int:
        """Return the number of channels of the images."""
        return config[self.out_channels]

    def downscaling(self, config: Any) -> int:
        """Return the ratio of the image's side to the side of its latents."""
        return 2 ** (len(config[self.levels]) - 1) * self.block


KL = Layout(("block_out_channels", "latent_channels", "out_channels", "scaling_factor"), "block_out_channels")
LAYOUTS = {
    # The deep-compression autoencoder of Sana; its images have the channels of its inputs.
    "AutoencoderDC": Layout(
        ("encoder_block_out_channels", "latent_channels", "in_channels", "scaling_factor"),
        "encoder_block_out_channels",
        out_channels="in_channels",
    ),
    "AutoencoderKLFlux2": Layout(
        ("block_out_channels", "latent_channels", "out_channels", "batch_norm_eps"),
        "block_out_channels",
        block=2,
        in_batch_norm=True,
    ),
    "AutoencoderKLQwenImage": Layout(
        ("dim_mult", "z_dim", "input_channels", "latents_mean", "latents_std"),
        "dim_mult",
        out_channels="input_channels",
        latent_channels="z_dim",
        takes_video=True,
    ),
}


def layout_of(vae: Any) -> Layout:
    """Return the layout of a VAE of diffusers."""
    return LAYOUTS.get(type(vae).__name__, KL)
