"""Atomic outputs: a file or folder appears whole, or not at all."""

import contextlib
import hashlib
import io
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from PIL import Image


@contextlib.contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `out`; it replaces `out` when the block succeeds and is removed when it fails."""
    tmp = out.parent / f".{out.name}.partial"
    shutil.rmtree(tmp, ignore_errors=True)  # a killed process may have left it
    tmp.mkdir(parents=True)
    try:
        yield tmp
        if out.exists():
            shutil.rmtree(out)
        tmp.replace(out)
    finally:
        shutil.rmtree(tmp, ignore_errors=True)


@contextlib.contextmanager
def new_file(path: Path, shared: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path`; the file written there replaces `path` when the block succeeds.

    shared: several processes may write `path` at the same time, so each uses a temporary name of its own.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    tmp = path.with_name(f".{path.name}.{os.getpid()}.partial" if shared else f".{path.name}.partial")
    try:
        yield tmp
        tmp.replace(path)
    finally:
        tmp.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes | memoryview) -> None:
    """Write a file atomically."""
    with new_file(path) as tmp:
        tmp.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text to a file atomically."""
    write_bytes(path, text.encode())


def write_image(path: Path, image: Image.Image) -> None:
    """Write a picture atomically, in the format of the path's suffix. Raises ValueError for an unknown suffix."""
    if path.suffix.lower() not in Image.registered_extensions():
        raise ValueError(f"{path}: no picture format has the suffix {path.suffix!r}; use .png")
    buffer = io.BytesIO()
    image.save(buffer, format=Image.registered_extensions()[path.suffix.lower()])
    write_bytes(path, buffer.getvalue())


def sha256(path: Path) -> str:
    """Return the hex digest of a file, or of a folder: the relative names and contents of its files in sorted order."""
    digest = hashlib.sha256()
    if path.is_file():
        with path.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        digest.update(f"{file.relative_to(path).as_posix()}\0{sha256(file)}\n".encode())
    return digest.hexdigest()


def copy_files(files: Iterable[Path], out: Path) -> None:
    """Copy files into a new folder; the folder appears whole, or not at all."""
    with new_folder(out) as folder:
        for file in files:
            write_bytes(folder / file.name, file.read_bytes())
