"""Trains a teacher, from its last checkpoint if there is one, and writes it as a pipeline folder."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dmd.codecs.latents import Latents
from dmd.config import TeacherConfig
from dmd.data.shards import Images
from dmd.data.splits import Split
from dmd.diffusion.denoiser import as_denoiser
from dmd.diffusion.pipelines import save_pipeline
from dmd.networks.wrapper import unwrap
from dmd.progress import Progress
from dmd.signals import postpone_stop
from dmd.storage.checkpoint import Scratch
from dmd.teacher_training.architectures import new_network, new_scheduler
from dmd.teacher_training.text_unet import TrainableTextUnet
from dmd.teacher_training.trainer import TeacherState, train_teacher
from dmd.teacher_training.vae import set_scale, train_vae

CHECKPOINT_EVERY = 250  # steps
LOG_EVERY = 10  # steps


def train_to_folder(
    cfg: TeacherConfig, split: Split, scratch: Scratch, folder: Path, device: torch.device
) -> list[dict[str, float]]:
    """Train to the end and write the averaged weights to `folder`. Returns a row of losses for every tenth step.

    After a signal, saves a checkpoint and raises Stopped, or KeyboardInterrupt after SIGINT.
    """
    images = split.images.unit()
    torch.manual_seed(cfg.seed)
    net, parts = new_network(cfg, split)
    scheduler = new_scheduler(cfg)
    saved = scratch.load() or {}
    x, vae_state = _encode(parts.vae.to(device), cfg, images, saved.pop("vae", None)) if parts else (images, {})
    state = TeacherState(as_denoiser(net, scheduler).to(device), cfg)
    if saved:
        state.load_state_dict(saved)
    labels = None if cfg.network == "unet" and not split.class_names else split.labels
    with Progress("teacher", cfg.steps, "steps", state.step) as progress, postpone_stop() as stop:
        for row in train_teacher(state, cfg, x, labels, len(split.conditions)):
            progress.update(loss=row["loss"])
            if state.step % LOG_EVERY == 0 or state.step == cfg.steps:
                state.rows.append(row)
            if state.step % CHECKPOINT_EVERY == 0 or stop:
                scratch.save({**state.state_dict(), **vae_state})
            if stop:
                stop.end()
    if isinstance(state.ema.net, TrainableTextUnet):
        parts.text_encoder.load_state_dict(state.ema.net.text_encoder.state_dict())
    save_pipeline(unwrap(state.ema.net), scheduler, folder, like=parts)
    scratch.discard()
    return state.rows


def _encode(
    vae: Any, cfg: TeacherConfig, images: Images, weights: dict[str, Tensor] | None
) -> tuple[Tensor, dict[str, Any]]:
    """Train the VAE, or load its weights from a checkpoint. Returns the images' latents and the state to checkpoint."""
    if weights is None:
        train_vae(vae, cfg, images)
    else:
        vae.load_state_dict(weights)
    vae.eval().requires_grad_(False)
    set_scale(vae, images)
    return Latents(vae).encode(images), {"vae": vae.state_dict()}
