"""Opens picture files: the formats that are read, and the bounds within which they are read."""

import contextlib
import io
import stat
import struct
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from PIL import Image, ImageFile

T = TypeVar("T")

# EPS and PS would start Ghostscript, and Pillow recognises MPEG without decoding it.
REFUSED = ("EPS", "MPEG")
BYTES_PER_PIXEL = 8  # no picture that is read has more: four channels of 16 bits
FIXED_BYTES = 2**20  # bytes of a file beside its pixels that are always allowed
LARGE = 2**22  # pixels; larger pictures are decoded one at a time, so that the memory is that of one of them
BOMB = "more than twice the pixels that data.max_pixels allows; raise it"
PNG_START = b"\x89PNG\r\n\x1a\n"
PIXEL_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"eXIf", b"IEND")  # eXIf says which side is up

# One thread for all large pictures: each thread keeps the memory that it has used.
_large_pictures = ThreadPoolExecutor(1, "large picture")


def _list_formats() -> tuple[str, ...]:
    """Return the formats that Pillow decodes by itself, without another program or plug-in."""
    Image.init()
    stubs = [f for f, (kind, _) in Image.OPEN.items() if isinstance(kind, type) and issubclass(kind, STUB)]
    return tuple(f for f in Image.OPEN if f not in (*REFUSED, *stubs))


STUB = ImageFile.StubImageFile
FORMATS = _list_formats()
SUFFIXES = frozenset(  # Pillow opens MPO, two JPEGs in one file, as JPEG
    suffix for suffix, name in Image.registered_extensions().items() if name in (*FORMATS, "MPO")
)


@contextlib.contextmanager
def picture_limits(max_pixels: int) -> Iterator[None]:
    """Set Pillow's own limit, which also holds for pictures inside pictures, to max_pixels within the block.

    Pillow warns above the limit and fails above its double; `open_picture` refuses such a picture anyway.
    """
    former = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        Image.MAX_IMAGE_PIXELS = max_pixels
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = former


def open_picture(content: Path | bytes, max_pixels: int) -> Image.Image:
    """Open a picture file, or its content, without decoding it.

    Raises ValueError for a pipe or device and for a picture of more than max_pixels, and Pillow's types for a file that
    is no picture.
    """
    if isinstance(content, Path) and not stat.S_ISREG(content.stat().st_mode):
        raise ValueError("not a regular file")  # opening a pipe would wait for ever
    try:
        image = Image.open(io.BytesIO(content) if isinstance(content, bytes) else content, formats=FORMATS)
    except Image.DecompressionBombError:
        raise ValueError(BOMB) from None
    except ValueError:  # a text chunk before the pixels is too long, or unpacks to too much
        pixels = _without_text(content, max_pixels)
        if pixels is None:
            raise
        image = Image.open(io.BytesIO(pixels), formats=("PNG",))
    if image.width * image.height > max_pixels:
        raise ValueError(
            f"{image.width} x {image.height} pixels are more than data.max_pixels = {max_pixels} allows; raise it"
        )
    return image


def decode(image: Image.Image) -> None:
    """Decode the pixels of an opened picture. Raises Pillow's types for a damaged file."""
    try:
        image.load()
    except Image.DecompressionBombError:
        raise ValueError(BOMB) from None
    except ValueError:
        # Pillow also raises this for a long text chunk behind the pixels, which are then complete.
        if image.format != "PNG" or not isinstance(image, ImageFile.ImageFile) or image.tile:
            raise


def one_at_a_time(image: Image.Image, work: Callable[[], T]) -> T:
    """Return the result of work on a picture; no two large ones are worked on at the same time."""
    if image.width * image.height <= LARGE:
        return work()
    return _large_pictures.submit(work).result()


def max_file_bytes(max_pixels: int) -> int:
    """Return the size of the largest picture file that is read into memory."""
    return BYTES_PER_PIXEL * max_pixels + FIXED_BYTES


def _without_text(content: Path | bytes, max_pixels: int) -> bytes | None:
    """Return a PNG without the chunks that do not say what its pixels are; None for any other file."""
    kept, size, limit = [PNG_START], 0, max_file_bytes(max_pixels)
    with content.open("rb") if isinstance(content, Path) else io.BytesIO(content) as file:
        if file.read(len(PNG_START)) != PNG_START:
            return None
        while len(head := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            if kind in PIXEL_CHUNKS and (size := size + length) <= limit:
                kept += [head, file.read(length + 4)]  # with the checksum
            else:
                file.seek(length + 4, io.SEEK_CUR)
    return b"".join(kept)
