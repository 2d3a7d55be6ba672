"""Stage `teacher`: trained here, copied from a folder or fetched from the hub -> a diffusers folder."""

import argparse
import json
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from dmd.checkpoint import Scratch
from dmd.codecs import Latents
from dmd.config import Params, TeacherConfig
from dmd.data import Split, load_split
from dmd.denoisers import as_denoiser
from dmd.files import new_folder, write_text
from dmd.networks import LearningCaptions, bare
from dmd.new_teachers import new_network, new_scheduler
from dmd.pipelines import save_pipeline
from dmd.progress import Progress
from dmd.shards import Images
from dmd.teacher_trainer import TeacherState, train_teacher
from dmd.teachers import check_fits, describe, fetch, load_teacher
from dmd.vae_trainer import set_scale, train_vae
from stages.common import run

CHECKPOINT_EVERY = 250


def main(args: argparse.Namespace, params: Params, device: torch.device) -> str:
    split = load_split(args.data, "train", with_images=params.teacher.source == "train")
    rows: list[dict[str, float]] = []
    with new_folder(args.out) as folder:
        if params.teacher.source == "train":
            rows = train(args, params, split, folder, device)
            origin = {"source": "train"}
        else:
            origin = fetch(params.teacher, folder)
        write_text(folder / "origin.json", json.dumps(origin, indent=2) + "\n")
        teacher = load_teacher(folder, device, captions=split.class_captions[:1])  # one will do to see that it loads
        check_fits(teacher, split.shape, len(split.class_names))
    write_text(args.losses, pd.DataFrame(rows, columns=["step", "loss", "grad_norm"]).to_csv(index=False))
    return f"{describe(teacher)}; source {' '.join(origin.values())}" + (
        f", loss {rows[-1]['loss']:.4f}" if rows else ""
    )


def train(
    args: argparse.Namespace, params: Params, split: Split, folder: Path, device: torch.device
) -> list[dict[str, float]]:
    """Train to the end, resuming what an interrupted run left. Writes averaged weights; returns a row per 10 steps."""
    cfg, images = params.teacher, split.images.unit()
    torch.manual_seed(cfg.seed)
    net, parts = new_network(cfg, split)
    scheduler = new_scheduler(cfg)
    scratch = Scratch("teacher", {**cfg.model_dump(), **params.runtime.model_dump()}, {"data": args.data})
    saved = scratch.load() or {}
    x, kept = encoded(parts.vae.to(device), cfg, images, saved.pop("vae", None)) if parts else (images, {})
    state = TeacherState(as_denoiser(net, scheduler).to(device), cfg)
    if saved:
        state.load_state_dict(saved)
    with Progress("teacher", cfg.steps, "steps", state.step) as progress:
        labels = None if cfg.network == "unet" and not split.class_names else split.labels
        for row in train_teacher(state, cfg, x, labels, len(split.conditions)):
            progress.update(loss=row["loss"])
            if state.step % 10 == 0 or state.step == cfg.steps:
                state.rows.append(row)
            if state.step % CHECKPOINT_EVERY == 0:
                scratch.save({**state.state_dict(), **kept})
    if isinstance(state.ema.net, LearningCaptions):
        parts.text_encoder.load_state_dict(state.ema.net.text_encoder.state_dict())
    save_pipeline(bare(state.ema.net), scheduler, folder, like=parts)
    scratch.discard()
    return state.rows


def encoded(
    vae: Any, cfg: TeacherConfig, images: Images, trained: dict[str, Tensor] | None
) -> tuple[Tensor, dict[str, Any]]:
    """Train the VAE, or take over its weights. Returns the images' latents, and what a resumed run needs of it."""
    if trained is None:
        train_vae(vae, cfg, images)
    else:
        vae.load_state_dict(trained)
    vae.eval().requires_grad_(False)
    set_scale(vae, images)
    return Latents(vae).encode(images), {"vae": vae.state_dict()}


if __name__ == "__main__":
    run("teacher", main, inputs=("data",), outs=("out", "losses"))
