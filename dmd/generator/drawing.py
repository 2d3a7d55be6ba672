"""Draws images of a generator: a grid of labels, or any number of images into a folder, in batches."""

import csv
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dmd.generator.generator import Generator
from dmd.storage.files import new_folder, write_image

LABELS_FILE = "labels.csv"


def read_labels(text: str, classes: tuple[str, ...]) -> list[int]:
    """Return the indices of labels given as numbers or class names. Raises ValueError for an unknown label."""
    if not classes:
        if text:
            raise ValueError("--labels: this generator takes no labels")
        return [0]
    words = [w.strip() for w in text.split(",")] if text else list(classes)
    known = {name: i for i, name in enumerate(classes)} | {str(i): i for i in range(len(classes))}
    if unknown := [w for w in words if w not in known]:
        raise ValueError(f"--labels: {unknown[0]!r} is none of 0..{len(classes) - 1} or {', '.join(classes)}")
    return [known[w] for w in words]


def draw_grid(
    generator: Generator, labels: list[int], images: int, seed: int, scale: int, batch_size: int
) -> Image.Image:
    """A picture with one column per label and one row per image, each pixel enlarged `scale` times."""
    pixels = generator.sampler().draw(_repeat(labels, images), seed, batch_size)
    c, h, w = pixels.shape[1:]
    table = pixels.reshape(len(labels), images, c, h, w).permute(1, 3, 0, 4, 2).reshape(images * h, len(labels) * w, c)
    return enlarge(table.numpy(), scale)


def draw_folder(
    generator: Generator, labels: list[int], images: int, seed: int, scale: int, batch_size: int, folder: Path
) -> None:
    """Write `images` PNGs per label into a new folder, and labels.csv with the label of each file.

    The images are those of `draw_grid` for the same seed, label by label. Only one batch is in memory.
    """
    rows, digits = _repeat(labels, images), len(str(len(labels) * images - 1))
    with new_folder(folder) as new, (new / LABELS_FILE).open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file", "label"])
        done = 0
        for batch in generator.sampler().batches(rows, batch_size, seed):
            for image in batch.permute(0, 2, 3, 1).numpy():
                name = f"{done:0{digits}}.png"
                write_image(new / name, enlarge(image, scale))
                label = int(rows[done])
                table.writerow([name, generator.classes[label] if generator.classes else ""])
                done += 1


def enlarge(pixels: np.ndarray, scale: int) -> Image.Image:
    """uint8 [H, W, 1 or 3] -> a picture with every pixel repeated `scale` times in both directions."""
    large = np.kron(pixels, np.ones((scale, scale, 1), dtype=np.uint8)) if scale > 1 else pixels
    return Image.fromarray(large.squeeze(-1) if large.shape[-1] == 1 else large)


def _repeat(labels: list[int], images: int) -> Tensor:
    return torch.tensor(labels).repeat_interleave(images)
