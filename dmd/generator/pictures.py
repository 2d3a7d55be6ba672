"""Pictures of image sets: deterministic PNGs from uint8 arrays, by PIL alone."""

import io
import math
import textwrap
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

CELL = 40  # smallest side of an enlarged image, in pixels
GAP = 2
PAD = 10
FONT_SIZE = 14
LONGEST = 48  # characters of a row's name, which is shortened; a caption may be a paragraph
PAPER = (250, 250, 248)
INK = (40, 44, 52)


def enlarge(images: np.ndarray) -> np.ndarray:
    """[..., ch, H, W] uint8 with one or three channels -> [..., H', W', 3], every pixel repeated."""
    if images.dtype != np.uint8 or images.shape[-3] not in (1, 3):
        raise ValueError(f"expected uint8 images with 1 or 3 channels, got {images.dtype} of shape {images.shape}")
    scale = math.ceil(CELL / min(images.shape[-2:]))
    big = images.repeat(scale, axis=-2).repeat(scale, axis=-1)
    rgb = np.broadcast_to(big, (*big.shape[:-3], 3, *big.shape[-2:]))
    return np.moveaxis(rgb, -3, -1)


def image_grid(images: np.ndarray) -> Image.Image:
    """[R, C, ch, H, W] uint8 -> a grid with a thin gap between its cells."""
    if images.ndim != 5:
        raise ValueError(f"expected [rows, columns, channels, height, width], got shape {images.shape}")
    cells = enlarge(images)
    rows, columns, height, width, _ = cells.shape
    sheet = np.full((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, 3), PAPER, np.uint8)
    for r in range(rows):
        for c in range(columns):
            y, x = r * (height + GAP), c * (width + GAP)
            sheet[y : y + height, x : x + width] = cells[r, c]
    return Image.fromarray(sheet)


def png(image: Image.Image) -> bytes:
    """The picture as a PNG file without any metadata."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def comparison(columns: dict[str, np.ndarray], class_names: Sequence[str], rows_per_class: int) -> bytes:
    """Named panels side by side, one line per class with `rows_per_class` images of it.

    Each array is [classes * rows_per_class, ch, H, W] uint8, all images of the first class first.
    """
    classes = len(class_names)
    for name, images in columns.items():
        if len(images) != classes * rows_per_class:
            raise ValueError(f"{name}: expected {classes} classes of {rows_per_class} images, got {len(images)} images")
    panels = {name: image_grid(a.reshape(classes, rows_per_class, *a.shape[1:])) for name, a in columns.items()}
    font = ImageFont.load_default(FONT_SIZE)
    names = [textwrap.shorten(name, LONGEST, placeholder=" ...") for name in class_names]
    labels = math.ceil(max(font.getlength(name) for name in names))
    top = PAD + FONT_SIZE + PAD
    width = PAD + labels + sum(2 * PAD + max(p.width, math.ceil(font.getlength(n))) for n, p in panels.items())
    height = top + max(p.height for p in panels.values()) + PAD
    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    x = PAD + labels + PAD
    for name, panel in panels.items():
        draw.text((x, PAD), name, INK, font)
        sheet.paste(panel, (x, top))
        x += max(panel.width, math.ceil(font.getlength(name))) + 2 * PAD
    line = (next(iter(panels.values())).height + GAP) / classes
    for i, name in enumerate(names):
        draw.text((PAD + labels, top + (i + 0.5) * line - GAP / 2), name, INK, font, anchor="rm")
    return png(sheet)
