"""Trains a teacher, from its last checkpoint if there is one, and writes it as a pipeline folder."""

from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DModel
from torch import Tensor, nn

from dmd.codecs.latents import Latents
from dmd.codecs.pixels import Pixels
from dmd.config import NONE, TeacherConfig
from dmd.data.shards import Images
from dmd.data.splits import Split
from dmd.diffusion.denoiser import as_denoiser
from dmd.diffusion.pipelines import save_pipeline
from dmd.errors import TeacherError
from dmd.networks.wrapper import unwrap
from dmd.progress import Progress
from dmd.signals import postpone_stop
from dmd.storage.checkpoint import Scratch
from dmd.storage.weights import load_network
from dmd.teacher_training.architectures import new_network, new_scheduler
from dmd.teacher_training.text_unet import TrainableTextUnet
from dmd.teacher_training.trainer import TeacherState, train_teacher
from dmd.teacher_training.vae import set_scale, train_vae
from dmd.teacher_training.watching import show_samples

CHECKPOINT_EVERY = 250  # steps
LOG_EVERY = 10  # steps


def train_to_folder(
    cfg: TeacherConfig, split: Split, scratch: Scratch, folder: Path, device: torch.device
) -> list[dict[str, float]]:
    """Train to the end and write the averaged weights to `folder`. Returns a row of losses for every tenth step.

    Raises TeacherError if the network does not fit the data, or cfg.init_from holds another network.
    After a signal, saves a checkpoint and raises Stopped, or KeyboardInterrupt after SIGINT.
    """
    images = split.images.unit()
    torch.manual_seed(cfg.seed)
    net, parts = new_network(cfg, split)
    if cfg.init_from != NONE:
        load_start(net, Path(cfg.init_from) / "unet")
    scheduler = new_scheduler(cfg)
    saved = scratch.load()
    x, codec = _encode(parts.vae.to(device), cfg, images, scratch.part("vae")) if parts else (images, Pixels())
    state = TeacherState(as_denoiser(net, scheduler).to(device), cfg)
    if saved:
        state.load_state_dict(saved)
    labels = None if cfg.network == "unet" and not split.class_names else split.labels
    null = len(split.conditions)
    with Progress("teacher", cfg.steps, "steps", state.step) as progress, postpone_stop() as stop, scratch:
        rows = list[dict[str, float]]()  # since the last checkpoint
        for row in train_teacher(state, cfg, x, labels, null):
            progress.update(loss=row["loss"])
            scratch.check()
            show_samples(state.ema, codec, tuple(x.shape[1:]), 0 if labels is None else null, state.step, cfg)
            is_last = state.step == cfg.steps
            if state.step % LOG_EVERY == 0 or is_last:
                rows.append(row)
            if state.step % CHECKPOINT_EVERY == 0 or is_last or stop:
                scratch.save(state.state_dict(), rows)
                rows = []
            if stop:
                scratch.wait()
                stop.end()
    if isinstance(state.ema.net, TrainableTextUnet):
        parts.text_encoder.load_state_dict(state.ema.net.text_encoder.state_dict())
    save_pipeline(unwrap(state.ema.net), scheduler, folder, like=parts)
    rows = scratch.read_rows()
    scratch.discard()
    return rows


def load_start(net: nn.Module, folder: Path) -> None:
    """Load the weights of a trained UNet2DModel. Raises TeacherError if they are damaged or of another network."""
    trained = load_network(folder, UNet2DModel, TeacherError)
    try:
        net.load_state_dict(trained.state_dict())
    except RuntimeError:
        raise TeacherError(
            f"teacher.init_from: the network in {folder} differs from what teacher.channels, teacher.layers_per_block "
            "and the data ask for; change them, or use another folder"
        ) from None


def _encode(vae: Any, cfg: TeacherConfig, images: Images, scratch: Scratch) -> tuple[Tensor, Latents]:
    """Train the VAE, unless its last checkpoint holds it already. Returns the images' latents, and their codec."""
    train_vae(vae, cfg, images, scratch)
    vae.eval().requires_grad_(False)
    set_scale(vae, images)
    codec = Latents(vae)
    return codec.encode(images), codec
