"""Images of every depth, mode, size and orientation are stored in one shape."""

import io
import struct
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, UnidentifiedImageError

from dmd.preparation.images import fit_image
from dmd.preparation.pictures import SUFFIXES, open_picture, picture_limits


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


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


LONG_TEXT = {  # what a PNG holds beside its pixels -> the chunk; each unpacks to more than Pillow reads
    "compressed": png_chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(2**21))),
    "international": png_chunk(b"iTXt", b"k\0\1\0\0\0" + zlib.compress(bytes(2**21))),
    "profile": png_chunk(b"iCCP", b"k\0\0" + zlib.compress(bytes(2**21))),
    "plain": png_chunk(b"tEXt", b"k\0" + b"x" * 2**21),
}


@pytest.mark.parametrize("place", ["before", "behind"])
@pytest.mark.parametrize("kind", LONG_TEXT)
def test_a_long_text_leaves_the_pixels_readable(
    tmp_path: Path, kind: str, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("PIL.PngImagePlugin.MAX_TEXT_MEMORY", 2**20)  # 64 times as much takes seconds to write
    image, file = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)), io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    image.save(file, "PNG", exif=exif)
    content = file.getvalue()
    at = content.index(b"IDAT") - 4 if place == "before" else len(content) - 12
    odd = content[:at] + LONG_TEXT[kind] + content[at:]
    (tmp_path / "a.png").write_bytes(odd)
    for picture in (odd, tmp_path / "a.png"):
        pixels = fit_image(open_picture(picture, 64), 8, 1)[0]
        assert (pixels == np.arange(64).reshape(8, 8)[::-1, ::-1]).all()


def test_a_damaged_png_with_a_long_text_stays_damaged() -> None:
    image, file = Image.effect_noise((64, 64), 50), io.BytesIO()
    image.save(file, "PNG")
    content = file.getvalue()
    odd = content[:33] + LONG_TEXT["compressed"] + content[33 : len(content) // 2]
    with pytest.raises(OSError, match="truncated"):
        fit_image(open_picture(odd, 4096), 8, 1)


def test_formats_that_need_another_program_are_no_pictures() -> None:
    assert SUFFIXES.isdisjoint({".eps", ".ps", ".wmf", ".emf", ".h5", ".grib", ".bufr", ".mpg", ".pdf", ".svg", ""})
    assert {".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".jp2", ".mpo"} <= SUFFIXES


@pytest.mark.parametrize("name", ["x.eps", "x.png"])
def test_postscript_is_never_opened(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow would start Ghostscript, which runs the program in the file."""
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *a, **k: pytest.fail("Ghostscript was started"))
    (tmp_path / name).write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(x) run\n%%EOF\n")
    with pytest.raises(UnidentifiedImageError):
        fit_image(open_picture(tmp_path / name, 2**20), 8, 1)


def test_a_picture_of_too_many_pixels_is_refused_unopened() -> None:
    """The header promises 13,000 x 13,000 pixels; decoded, they would take half a gigabyte."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 13000, 13000, 8, 2, 0, 0, 0))
    content = b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(bytes(39001))) + png_chunk(b"IEND", b"")
    for limit, words in ((2**26, "twice the pixels that"), (10**8, "13000 x 13000 pixels are more than")):
        with picture_limits(limit), pytest.raises(ValueError, match=rf"{words} data\.max_pixels .*allows; raise it"):
            open_picture(content, limit)
    with picture_limits(2**28):
        assert open_picture(content, 2**28).size == (13000, 13000)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16"])
@pytest.mark.parametrize("orientation", [1, 6, 7])
def test_strips_give_the_picture_as_a_whole(mode: str, orientation: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    if mode == "I;16":
        image = Image.fromarray(rng.integers(0, 65536, (30, 20), dtype=np.uint16))
    else:
        source = Image.fromarray(rng.integers(0, 256, (30, 20, 4), dtype=np.uint8), "RGBA")
        image = source.convert("RGB").convert(mode) if mode in ("CMYK", "YCbCr", "P", "1") else source.convert(mode)
    image.getexif()[0x0112] = orientation
    whole = fit_image(image, 8, 3)
    monkeypatch.setattr("dmd.preparation.images.PIXELS_AT_ONCE", 70)  # three rows
    assert (fit_image(image, 8, 3) == whole).all()


def test_large_pictures_are_decoded_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dmd.preparation.pictures.LARGE", 63)
    at_work, most = [], []

    def slow(image: Image.Image) -> None:
        at_work.append(image)
        most.append(len(at_work))
        time.sleep(0.02)
        at_work.remove(image)

    monkeypatch.setattr("dmd.preparation.images.decode", slow)
    for side, together in ((8, {1}), (7, {1, 2})):
        most.clear()
        with ThreadPoolExecutor(2) as threads:
            list(threads.map(lambda i, n=side: fit_image(Image.new("L", (n, n)), 8, 1), range(6)))
        assert set(most) == together
