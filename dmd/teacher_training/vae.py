"""Trains a small VAE, for teachers that are trained here and work on latents."""

from typing import Any

import torch
import torch.nn.functional as F

from dmd.codecs.latents import vae_batch_size
from dmd.config import TeacherConfig
from dmd.data.shards import Images
from dmd.progress import Progress
from dmd.training.optim import learning_rate, optimizer_step
from dmd.training.random_source import RandomSource

KL_WEIGHT = 1e-4  # keeps the latents near unit spread without loss of sharpness


def train_vae(vae: Any, cfg: TeacherConfig, images: Images) -> None:
    """Minimise the squared error of the reconstruction and a small KL term.

    vae: an AutoencoderKL; images [N, C, H, W] in [-1, 1].
    """
    optimizer = torch.optim.AdamW(vae.parameters(), weight_decay=0.0, fused=True)
    with Progress("vae", cfg.vae.steps, "steps") as progress:
        for step in range(cfg.vae.steps):
            rng = RandomSource(cfg.seed, step, "vae", range(cfg.batch_size), vae.device)
            x = images[rng.fork("images", "cpu").integers(0, len(images))].to(vae.device)
            latents = vae.encode(x).latent_dist
            reconstruction = vae.decode(latents.mean + latents.std * rng.noise_like(latents.mean)).sample
            loss = F.mse_loss(reconstruction, x) + KL_WEIGHT * latents.kl().mean()
            lr = learning_rate(cfg.vae.lr, step, cfg.warmup_steps, cfg.vae.steps, "cosine")
            optimizer_step(optimizer, vae, loss, lr, cfg.grad_clip, f"vae loss at step {step}")
            progress.update(loss=loss.item())


@torch.no_grad()
def set_scale(vae: Any, images: Images) -> None:
    """Set the scaling factor that gives the latents of these images unit spread, as in Stable Diffusion."""
    parts = images.split(vae_batch_size(*images.shape[2:]))
    latents = torch.cat([vae.encode(part.to(vae.device)).latent_dist.mode() for part in parts])
    vae.register_to_config(scaling_factor=1 / latents.std().item())
