"""Converts any picture file to the one form that is stored."""

import numpy as np
from PIL import ExifTags, Image, ImageOps

from dmd.preparation.pictures import decode, one_at_a_time

SIXTEEN_BIT = 257  # 65535 / 255
PIXELS_AT_ONCE = 2**22  # pixels converted at once
ORIENTATION = ExifTags.Base.Orientation


def fit_image(image: Image.Image, size: int, channels: int) -> np.ndarray:
    """Convert a picture to uint8 [channels, size, size].

    The picture is turned upright, reduced to 8 bits, put on white where it is transparent, resized by its shorter side
    and cropped at the centre. Raises ValueError for values of unknown range, and Pillow's types for a damaged file.
    """

    def fit() -> Image.Image:
        decode(image)
        plain = _convert(image, "L" if channels == 1 else "RGB")
        return ImageOps.fit(plain, (size, size), Image.Resampling.BICUBIC)  # Pillow's bicubic is antialiased

    square = one_at_a_time(image, fit)
    return np.ascontiguousarray(np.asarray(square).reshape(size, size, channels).transpose(2, 0, 1))


def _convert(image: Image.Image, mode: str) -> Image.Image:
    """Return the upright picture in a mode of 8 bits, on white; rows at a time, since every copy is as large again."""
    has_16_bits = _has_16_bits(image)
    plain = Image.new(mode, image.size)
    rows = max(1, PIXELS_AT_ONCE // image.width)
    for top in range(0, image.height, rows):
        part = image.crop((0, top, image.width, min(top + rows, image.height)))
        plain.paste(_put_on_white(_reduce_to_8_bits(part, integers_are_16_bit=has_16_bits)).convert(mode), (0, top))
    plain.getexif()[ORIENTATION] = image.getexif().get(ORIENTATION, 1)
    ImageOps.exif_transpose(plain, in_place=True)
    return plain


def _has_16_bits(image: Image.Image) -> bool:
    """Whether integers of a grey image have 16 bits; Pillow opens 32-bit images, and 16-bit PPM files, as mode I."""
    return image.mode != "I" or image.format == "PPM"


def _reduce_to_8_bits(image: Image.Image, integers_are_16_bit: bool) -> Image.Image:
    """Scale 16-bit grey to 8 bits, with transparent pixels white; Pillow would clip every value over 255."""
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image)
    if image.mode == "F" or not integers_are_16_bit or values.min() < 0 or values.max() > 65535:
        raise ValueError(f"values of unknown range (mode {image.mode}); 8 or 16 bits are expected")
    pixels = np.rint(values / SIXTEEN_BIT).astype(np.uint8)
    pixels[values == image.info.get("transparency", -1)] = 255
    return Image.fromarray(pixels)


def _put_on_white(image: Image.Image) -> Image.Image:
    """Compose an image with transparency over white; return any other image unchanged."""
    if not image.has_transparency_data:
        return image
    colour = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", colour.size, "white"), colour)
