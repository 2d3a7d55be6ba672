"""Stage `evaluator`: the CLIP model that judges, and a small classifier whose features judge independently."""

import argparse
import shutil
from pathlib import Path

import torch

from dmd.config import EvaluatorConfig, Params
from dmd.data.splits import Split, load_split
from dmd.errors import EvaluatorError
from dmd.storage.files import new_folder
from evaluation.models.classifier import train_classifier
from evaluation.models.clip_training import train_clip
from evaluation.models.features import load_extractors
from evaluation.models.hub import download_snapshot
from stages.command import run

PARTS = ("clip", "classifier")


def main(args: argparse.Namespace, params: Params, device: torch.device) -> str:
    needed = params.evaluator.source == "train"
    train, validation = (load_split(args.data, name, with_images=needed) for name in ("train", "validation"))
    with new_folder(args.out) as folder:
        if whole := finished(params.evaluator):
            shutil.copytree(whole, folder, dirs_exist_ok=True)
            load_extractors(folder, device)
            return f"CLIP and classifier from {whole}"
        write_clip(params.evaluator, train, folder / "clip", device)
        accuracy = train_classifier(params.evaluator, train, validation, folder / "classifier", device)
        load_extractors(folder, device)  # a folder that cannot be read must fail here, not in the next stage
    judged = f"{100 * accuracy:.1f} % right on the validation split" if train.class_names else "untrained: no classes"
    return f"CLIP from {params.evaluator.source}; classifier {judged}"


def finished(cfg: EvaluatorConfig) -> Path | None:
    """The folder that params name, if it is one that this stage wrote: its classifier is taken over, too."""
    folder = Path(cfg.folder)
    return folder if cfg.source == "folder" and all((folder / part).is_dir() for part in PARTS) else None


def write_clip(cfg: EvaluatorConfig, train: Split, out: Path, device: torch.device) -> None:
    """The CLIP model as a transformers folder, whatever its source."""
    if cfg.source == "train":
        out.mkdir()
        train_clip(cfg, train, out, device)
        return
    source = Path(cfg.folder) if cfg.source == "folder" else download_snapshot(cfg.hub_id, cfg.revision)
    if not (source / "config.json").is_file():
        raise EvaluatorError(f"{source} is not a transformers folder: it has no config.json")
    shutil.copytree(source, out)


if __name__ == "__main__":
    run("evaluator", main, inputs=("data",), outs=("out",))
