"""`python -m dmd.sample --generator FOLDER --labels 0,1,2 --seed 0 --out grid.png`: writes images of a generator."""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dmd.generator.generator import Generator, load_generator
from dmd.storage.files import write_image

BATCH = 64  # images at once


def parse() -> argparse.Namespace:
    p = argparse.ArgumentParser(prog="python -m dmd.sample", description="Make images with a one-step generator.")
    p.add_argument("--generator", type=Path, required=True, help="folder of the generator")
    p.add_argument("--labels", default="", help="comma-separated labels, numbers or names; default: each class once")
    p.add_argument("--images", type=int, default=1, help="images per label (default 1)")
    p.add_argument("--seed", type=int, default=0, help="seed of the noise (default 0)")
    p.add_argument("--scale", type=int, default=8, help="enlargement of the pixels in the grid (default 8)")
    p.add_argument("--out", type=Path, required=True, help="PNG to write: a column per label, a row per image")
    return p.parse_args()


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


def grid(generator: Generator, labels: list[int], images: int, seed: int, scale: int) -> Image.Image:
    """A picture with one column per label and one row per image."""
    rng, sampler = torch.Generator().manual_seed(seed), generator.sampler()
    rows = torch.tensor(labels).repeat_interleave(images)
    pixels = torch.cat([sampler.images(part, rng) for part in rows.split(BATCH)])
    c, h, w = pixels.shape[1:]
    table = pixels.reshape(len(labels), images, c, h, w).permute(1, 3, 0, 4, 2).reshape(images * h, len(labels) * w, c)
    large = np.kron(table.numpy(), np.ones((scale, scale, 1), dtype=np.uint8))
    return Image.fromarray(large.squeeze(-1) if c == 1 else large)


def main() -> None:
    args = parse()
    try:
        if min(args.images, args.scale) < 1 or args.seed < 0:
            raise ValueError("--images and --scale must be at least 1, --seed at least 0")
        generator = load_generator(args.generator, torch.device("cpu"))
        labels = read_labels(args.labels, generator.classes)
        write_image(args.out, grid(generator, labels, args.images, args.seed, args.scale))
    except (ValueError, OSError) as e:
        sys.exit(f"error: {e}")
    images, passes = len(labels) * args.images, len(generator.times)
    print(f"{args.out}: {images} images, seed {args.seed}, network passes per image: {passes}")


if __name__ == "__main__":
    main()
