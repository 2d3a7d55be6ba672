"""Any picture file -> the one shape that is stored."""

import numpy as np
from PIL import Image, ImageOps

SIXTEEN_BIT = 257  # 65535 / 255


def adapted(image: Image.Image, size: int, channels: int) -> np.ndarray:
    """uint8 [channels, size, size]: upright, 8 bits, on white where transparent, shorter side resized, centre cropped.

    Raises ValueError for values whose range nobody knows; Pillow raises many kinds of exception for a damaged file.
    """
    image.load()
    upright = _eight_bits(ImageOps.exif_transpose(image), sixteen=image.mode != "I" or image.format == "PPM")
    plain = _on_white(upright).convert("L" if channels == 1 else "RGB")
    fitted = ImageOps.fit(plain, (size, size), Image.Resampling.BICUBIC)  # Pillow's bicubic is antialiased
    return np.ascontiguousarray(np.asarray(fitted).reshape(size, size, channels).transpose(2, 0, 1))


def _eight_bits(image: Image.Image, sixteen: bool) -> Image.Image:
    """16-bit grey scaled down, on white: Pillow's own conversion would cut everything above 255 off.

    sixteen: whether integers are of 16 bits; Pillow opens them, and those of 32 bits, as mode I.
    """
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image)
    if image.mode == "F" or not sixteen or values.min() < 0 or values.max() > 65535:
        raise ValueError(f"values of unknown range (mode {image.mode}); 8 or 16 bits are expected")
    scaled = np.rint(values / SIXTEEN_BIT).astype(np.uint8)
    scaled[values == image.info.get("transparency", -1)] = 255
    return Image.fromarray(scaled)


def _on_white(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image
    coloured = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", coloured.size, "white"), coloured)
