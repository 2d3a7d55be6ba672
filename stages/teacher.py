"""Stage `teacher`: train a diffusion model, or fetch one from a folder or the hub -> a diffusers folder."""

import argparse
import json
from pathlib import Path

import pandas as pd
import torch

from dmd.config import Params
from dmd.data.splits import load_split
from dmd.storage.checkpoint import Scratch
from dmd.storage.files import new_folder, write_text
from dmd.teacher_training.run import train_to_folder
from stages.command import run


def main(args: argparse.Namespace, params: Params, device: torch.device) -> str:
    cfg = params.teacher
    split = load_split(args.data, "train", with_images=cfg.source == "train")
    rows: list[dict[str, float]] = []
    with new_folder(args.out) as folder:
        if cfg.source == "train":
            inputs = {"data": args.data, "init_from": Path(cfg.init_from)}
            scratch = Scratch("teacher", {**cfg.model_dump(), **params.runtime.bits()}, inputs)
            rows = train_to_folder(cfg, split, scratch, folder, device)
            origin, summary = {"source": "train"}, f"{cfg.network} trained, loss {rows[-1]['loss']:.4f}"
        else:
            # Imported only here, so that an edit of the code that fetches teachers does not retrain a teacher.
            from dmd.teachers.fetch import fetch_teacher

            origin, summary = fetch_teacher(cfg, split, folder, device)
        write_text(folder / "origin.json", json.dumps(origin, indent=2) + "\n")
    write_text(args.losses, pd.DataFrame(rows, columns=["step", "loss", "grad_norm"]).to_csv(index=False))
    return f"{summary}; source {' '.join(origin.values())}"


if __name__ == "__main__":
    run("teacher", main, inputs=("data",), outs=("out", "losses"))
