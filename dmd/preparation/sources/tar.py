"""Lists the files of a tar archive by their places in it, so that several threads can read them in any order."""

import posixpath
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from dmd.errors import DataError

BLOCK = 512  # bytes; a complete archive ends with two blocks of zeros
MAX_PADDING = 2**20  # bytes of zeros after the last file; tar itself pads to 10,240
MAX_HEADER = 2**20  # bytes of a long name or of pax records; their size is in the file, and is allocated before reading
MAX_LINKS = 40  # links from one to the next, as many as Linux follows


@dataclass(frozen=True)
class Member:
    """A file of an archive: its name, the place of its content, and the reason why it cannot be read, "" if it can."""

    name: str  # without ./ and doubled slashes
    offset: int
    size: int
    target: str = ""  # name of the member that it is a link to; "" for a file
    fault: str = ""

    def read(self, archive: Path) -> bytes:
        """Read the content. Raises ValueError for a member with a fault."""
        if self.fault:
            raise ValueError(f"{posixpath.basename(self.name)} is {self.fault}")
        with archive.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


class _Headers:
    """A file from which tarfile reads headers, none of them longer than MAX_HEADER."""

    def __init__(self, file: BinaryIO) -> None:
        self.seek, self.tell, self._read = file.seek, file.tell, file.read

    def read(self, size: int) -> bytes:
        if not 0 <= size <= MAX_HEADER:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        return self._read(size)


def list_members(archive: Path) -> list[Member]:
    """Return the files of an archive in order, hard and symbolic links with the place of what they stand for.

    Raises DataError if the archive is truncated or damaged.
    """
    members, end = list[Member](), 0
    try:
        with archive.open("rb") as file, tarfile.open(fileobj=_Headers(file), mode="r:") as tar:  # type: ignore[call-overload]
            for entry in _entries(tar):
                if (member := _new_member(entry)) is not None:
                    members.append(member)
            end = tar.offset
    except Exception as e:  # tarfile raises many types for damaged headers
        raise DataError(f"{archive} is truncated or not a tar file ({e}); fetch it again, or remove it") from None
    _check_end(archive, end, members[-1].name if members else "its beginning")
    places = {member.name: member for member in members}
    return [_follow(member, places) for member in members]


def _entries(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield the entries, and let tarfile forget them: it would keep a kilobyte for each."""
    while (entry := tar.next()) is not None:
        tar.members.clear()  # type: ignore[attr-defined]
        if entry.size < 0:
            raise tarfile.ReadError(f"{entry.name!r} has a size of {entry.size}")
        yield entry


def _new_member(entry: tarfile.TarInfo) -> Member | None:
    """Return a file, link or device; None for a folder and for what is no file, such as the label of a volume."""
    name = posixpath.normpath(entry.name)
    if entry.islnk() or entry.issym():
        base = "" if entry.islnk() else posixpath.dirname(name)
        return Member(name, 0, 0, target=posixpath.normpath(posixpath.join(base, entry.linkname)))
    if entry.isdev():
        return Member(name, 0, 0, fault="a device or pipe")
    if not entry.isreg():
        return None
    if entry.issparse():
        return Member(name, 0, 0, fault="a sparse file, which only tar itself can read")
    return Member(name, entry.offset_data, entry.size)


def _follow(member: Member, places: dict[str, Member]) -> Member:
    """Return a link with the place of the file that it leads to; a file unchanged."""
    end = member
    for _ in range(MAX_LINKS):
        if not end.target:
            return replace(end, name=member.name)
        if end.target not in places:
            return replace(member, fault=f"a link to {end.target}, which the shard does not hold")
        end = places[end.target]
    return replace(member, fault="a link that leads to no file")


def _check_end(archive: Path, end: int, last: str) -> None:
    """Raise DataError unless zeros, and little else, follow the last file: tarfile takes any damage for the end."""
    with archive.open("rb") as file:
        file.seek(end)
        if file.read(BLOCK) != bytes(BLOCK) or archive.stat().st_size - end > MAX_PADDING:
            raise DataError(f"{archive} is truncated after {last!r}; fetch it again, or remove it")
