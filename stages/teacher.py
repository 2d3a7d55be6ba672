"""Stage `teacher`: trained here, copied from a folder or fetched from the hub -> a diffusers folder."""

import argparse
import json
from pathlib import Path

import pandas as pd
import torch

from dmd.checkpoint import Scratch
from dmd.config import Params
from dmd.data import Split, load_split, to_unit
from dmd.denoisers import as_denoiser
from dmd.files import new_folder, write_text
from dmd.progress import Progress
from dmd.teacher_trainer import TeacherState, train_teacher
from dmd.teachers import check_fits, fetch, load_teacher, new_scheduler, new_unet, save_pipeline
from stages.common import run

CHECKPOINT_EVERY = 250


def main(args: argparse.Namespace, params: Params, device: torch.device) -> str:
    split = load_split(args.data, "train")
    rows: list[dict[str, float]] = []
    with new_folder(args.out) as folder:
        if params.teacher.source == "train":
            rows = train(args, params, split, folder, device)
            origin = {"source": "train"}
        else:
            origin = fetch(params.teacher, folder)
        write_text(folder / "origin.json", json.dumps(origin, indent=2) + "\n")
        teacher = load_teacher(folder, device)
        check_fits(teacher, split.shape, len(split.class_names))
    write_text(args.losses, pd.DataFrame(rows, columns=["step", "loss", "grad_norm"]).to_csv(index=False))
    size = sum(p.numel() for p in teacher.denoiser.parameters())
    return f"{size:,} parameters, source {origin['source']}" + (f", loss {rows[-1]['loss']:.4f}" if rows else "")


def train(
    args: argparse.Namespace, params: Params, split: Split, folder: Path, device: torch.device
) -> list[dict[str, float]]:
    """Train to the end, resuming what an interrupted run left. Writes averaged weights; returns a row per 10 steps."""
    cfg, classes = params.teacher, len(split.class_names)
    torch.manual_seed(cfg.seed)
    net, scheduler = new_unet(cfg, split.shape, classes), new_scheduler(cfg)
    state = TeacherState(as_denoiser(net, scheduler).to(device), cfg)
    scratch = Scratch("teacher", {**cfg.model_dump(), **params.runtime.model_dump()}, {"data": args.data})
    if saved := scratch.load():
        state.load_state_dict(saved)
    with Progress("teacher", cfg.steps, "steps", state.step) as progress:
        for row in train_teacher(state, cfg, to_unit(split.images), split.labels, classes):
            progress.update(loss=row["loss"])
            if state.step % 10 == 0 or state.step == cfg.steps:
                state.rows.append(row)
            if state.step % CHECKPOINT_EVERY == 0:
                scratch.save(state.state_dict())
    save_pipeline(state.ema.net, scheduler, folder)
    scratch.discard()
    return state.rows


if __name__ == "__main__":
    run("teacher", main, inputs=("data",), outs=("out", "losses"))
