"""Trains a small VAE, for teachers that are trained here and work on latents."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dmd.codecs.latents import Latents, vae_batch_size
from dmd.config import TeacherConfig
from dmd.data.shards import Images
from dmd.errors import TeacherError
from dmd.storage.checkpoint import Scratch
from dmd.training.optim import learning_rate, optimizer_step
from dmd.training.random_source import RandomSource
from dmd.training.resumable import run_steps

KL_WEIGHT = 1e-4  # keeps the latents near unit spread without loss of sharpness
NOISE = 0.1  # standard deviation of the latents of an autoencoder that gives no distribution


def latent_size(cfg: TeacherConfig, shape: tuple[int, int, int]) -> int:
    """Return the side of the latents of images [C, H, W].

    Raises TeacherError for images that are no squares, or that the VAE cannot halve as often as it has levels.
    """
    _, height, width = shape
    factor = 2 ** (len(cfg.vae.channels) - 1)
    if height != width or height % factor:
        raise TeacherError(
            f"teacher.vae.channels: images of {height}x{width} are not divisible by {factor}; use fewer levels, "
            "or another data.size"
        )
    return height // factor


def train_vae(vae: Any, cfg: TeacherConfig, images: Images, scratch: Scratch) -> None:
    """Minimise the squared error of the reconstruction and a small KL term.

    vae: an AutoencoderKL or AutoencoderDC; images [N, C, H, W] in [-1, 1].
    """
    optimizer = torch.optim.AdamW(vae.parameters(), weight_decay=0.0, fused=True)

    def take_step(step: int) -> Tensor:
        rng = RandomSource(cfg.seed, step, "vae", range(cfg.batch_size), vae.device)
        x = images[rng.fork("images", "cpu").integers(0, len(images))].to(vae.device)
        mean, std, kl = _posterior(vae.encode(x))
        reconstruction = vae.decode(mean + std * rng.noise_like(mean)).sample
        loss = F.mse_loss(reconstruction, x) + KL_WEIGHT * kl.mean()
        lr = learning_rate(cfg.vae.lr, step, cfg.warmup_steps, cfg.vae.steps, "cosine")
        optimizer_step(optimizer, vae, loss, lr, cfg.grad_clip, f"vae loss at step {step}")
        return loss

    run_steps("vae", cfg.vae.steps, {"net": vae, "optimizer": optimizer}, scratch, take_step)


def _posterior(encoded: Any) -> tuple[Tensor, Tensor | float, Tensor]:
    """Return mean and standard deviation of the latents, and each image's KL from N(0, 1), up to a constant."""
    if hasattr(encoded, "latent"):  # AutoencoderDC gives the latents themselves
        return encoded.latent, NOISE, 0.5 * encoded.latent.square().sum(dim=(1, 2, 3))
    latents = encoded.latent_dist
    return latents.mean, latents.std, latents.kl()


@torch.no_grad()
def set_scale(vae: Any, images: Images) -> None:
    """Set the scaling factor that gives the latents of these images unit spread, as in Stable Diffusion."""
    parts = images.split(vae_batch_size(*images.shape[2:]))
    latents = torch.cat([Latents(vae).encode_raw(part.to(vae.device)) for part in parts])
    vae.register_to_config(scaling_factor=1 / latents.std().item())
