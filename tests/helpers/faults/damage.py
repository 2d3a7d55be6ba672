"""Damage to files: a flipped bit, a truncation, and two swapped files."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

Damage = Callable[[Sequence[Path]], None]  # the first file is damaged; the second one is another file of the same kind


def flip(files: Sequence[Path]) -> None:
    """Flip one bit in the middle of a file."""
    content = bytearray(files[0].read_bytes())
    content[len(content) // 2] ^= 1
    files[0].write_bytes(content)


def truncate(files: Sequence[Path]) -> None:
    """Cut off the last byte of a file."""
    files[0].write_bytes(files[0].read_bytes()[:-1])


def swap(files: Sequence[Path]) -> None:
    """Exchange the contents of two files."""
    first, second = (file.read_bytes() for file in files)
    files[0].write_bytes(second)
    files[1].write_bytes(first)


DAMAGES: dict[str, Damage] = {"flipped": flip, "truncated": truncate, "swapped": swap}


def do_damage(damage: str, files: Sequence[Path], keep_time: bool) -> None:
    """Damage files. keep_time: restore their time stamps, as if the disk had lost a bit; else the time is now."""
    times = [(file.stat().st_atime_ns, file.stat().st_mtime_ns) for file in files]
    DAMAGES[damage](files)
    for file, ns in zip(files, times, strict=True):
        if keep_time:
            os.utime(file, ns=ns if keep_time else None)
