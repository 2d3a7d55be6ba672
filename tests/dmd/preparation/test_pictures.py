"""Images of every depth, mode, size and orientation are stored in one shape."""

import io

import numpy as np
import pytest
from PIL import Image

from dmd.preparation.images import fit_image


def reread(image: Image.Image, kind: str = "PNG", **options: object) -> Image.Image:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return Image.open(file)


def test_16_bits_are_scaled_to_8() -> None:
    ramp = np.linspace(0, 65535, 64).reshape(8, 8).astype(np.uint16)
    expected = np.rint(np.linspace(0, 255, 64).reshape(8, 8))
    assert np.abs(fit_image(reread(Image.fromarray(ramp)), 8, 1)[0].astype(float) - expected).max() <= 1
    assert (fit_image(reread(Image.fromarray(ramp)), 8, 3) == fit_image(reread(Image.fromarray(ramp)), 8, 1)).all()
    with pytest.raises(ValueError, match="values of unknown range"):
        fit_image(reread(Image.fromarray(np.full((8, 8), 0.5, np.float32)), "TIFF"), 8, 1)


def test_a_photograph_is_rotated_by_its_exif_tag() -> None:
    image = Image.new("L", (8, 8), 0)
    image.paste(255, (0, 0, 8, 4))  # the upper half is bright
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: rotate by 90 degrees, clockwise
    turned = fit_image(reread(image, "JPEG", exif=exif, quality=100), 8, 1)[0]
    assert turned[:, 5:].min() > 200 and turned[:, :3].max() < 50


def test_transparent_pixels_become_white() -> None:
    half = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    half.paste((0, 0, 255, 255), (0, 0, 8, 4))
    stored = fit_image(reread(half), 8, 3)
    assert (stored[:, 6] == 255).all() and stored[:, 1, 0].tolist() == [0, 0, 255]
    palette = fit_image(reread(Image.new("P", (8, 8), 0), transparency=0), 8, 3)
    assert (palette == 255).all()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_is_stored_in_one_shape(mode: str, channels: int) -> None:
    image = fit_image(reread(Image.new(mode, (13, 9)), "TIFF"), 8, channels)
    assert image.shape == (channels, 8, 8) and image.dtype == np.uint8


def test_the_shorter_side_is_resized_and_the_centre_cropped() -> None:
    wide = Image.new("L", (48, 16), 0)
    wide.paste(200, (16, 0, 32, 16))  # only the middle third stays
    assert (fit_image(wide, 8, 1)[0, :, 2:-2] == 200).all()
    stripes = Image.fromarray(np.tile(np.array([[0, 255]], np.uint8), (64, 32)))
    # Antialiasing gives grey, not the value of a stripe.
    assert np.abs(fit_image(stripes, 8, 1).astype(int) - 127).max() < 8
    same = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8))
    assert (fit_image(same, 8, 1)[0] == np.asarray(same)).all()


# idx files
