"""Build the folder of the evaluator stage: a CLIP model and a classifier."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from dmd.config import EvaluatorConfig
from dmd.data.splits import Split, half, images_sha256
from dmd.errors import EvaluatorError
from dmd.storage.checkpoint import Scratch
from dmd.storage.files import write_text
from dmd.storage.hub import download_snapshot
from evaluation.models.captions import read_captions
from evaluation.models.classifier import train_classifier
from evaluation.models.clip import load_clip
from evaluation.models.clip_training import train_clip
from evaluation.models.extractors import load_extractors

PARTS = ("clip", "classifier")
SECOND_HALF = "second_half.txt"  # file that says which images the networks saw
PUBLISHED = "published.txt"  # file that says that the CLIP model comes from a folder or from the hub
OF_SECOND_HALF = "Trained on the images at odd positions of the train split. The sha256 of all images of that split is:"


def build_evaluator(
    cfg: EvaluatorConfig, splits: Mapping[str, Split], folder: Path, device: torch.device, scratch: Scratch
) -> str:
    """Write the parts into `folder` and return a line that describes them. Raises EvaluatorError for a bad source.

    splits: all splits by name; of the test split only the captions are read.
    """
    train, captions = splits["train"], sorted({caption for split in splits.values() for caption in split.captions})
    if source := find_complete_folder(cfg):
        load_extractors(source, device)  # its errors name the files of the user, not the copy
        shutil.copytree(source, folder, dirs_exist_ok=True)
        facts = [f"CLIP and classifier from {source}"]
    else:
        if cfg.images == "second_half":
            write_text(folder / SECOND_HALF, f"{OF_SECOND_HALF}\n{images_sha256(train.images)}\n")
            train = half(train, 1)
        _write_clip(cfg, train, captions, folder / "clip", device, scratch.part("clip"))
        held_out, part = splits["validation"], scratch.part("classifier")
        accuracy = train_classifier(cfg, train, held_out, folder / "classifier", device, part)
        quality = f"{100 * accuracy:.1f} % right on the validation split"
        if cfg.source != "train":
            write_text(folder / PUBLISHED, "The CLIP model was not trained by stage evaluator.\n")
        facts = [f"CLIP from {cfg.source}", f"classifier {quality if train.class_names else 'untrained: no classes'}"]
    clip, _ = load_extractors(folder, device)  # fail here, not in the next stage, if the folder cannot be read
    return "; ".join([*facts, *read_captions(clip.tokenizer, captions).describe()])


def trained_on_second_half(folder: Path, split: str) -> bool:
    """Whether the networks of an evaluator's folder were trained on the second half of a train split.

    split: hash of the images of that split. The second half of another partition may hold images of its first half.
    """
    file = folder / SECOND_HALF
    return bool(split) and file.is_file() and file.read_text(errors="replace").split()[-1:] == [split]


def has_published_clip(folder: Path) -> bool:
    """Whether the CLIP model of an evaluator's folder was not trained here; False for folders of earlier versions."""
    return (folder / PUBLISHED).is_file()


def find_complete_folder(cfg: EvaluatorConfig) -> Path | None:
    """Return the folder of the params if an evaluator stage wrote it, with a classifier beside the CLIP model."""
    folder = Path(cfg.folder)
    return folder if cfg.source == "folder" and all((folder / part).is_dir() for part in PARTS) else None


def _write_clip(
    cfg: EvaluatorConfig, train: Split, captions: Sequence[str], out: Path, device: torch.device, scratch: Scratch
) -> None:
    """Write the CLIP model of any source as a transformers folder."""
    if cfg.source == "train":
        out.mkdir()
        train_clip(cfg, train, captions, out, device, scratch)
        return
    source = Path(cfg.folder) if cfg.source == "folder" else download_snapshot(cfg.hub_id, cfg.revision)
    if not (source / "config.json").is_file():
        raise EvaluatorError(f"{source} is not a transformers folder: it has no config.json")
    load_clip(source, device)
    shutil.copytree(source, out)
