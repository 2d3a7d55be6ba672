"""Shards of every kind that tar writes: links, long names, sparse files, damaged and hostile headers."""

import io
import tarfile
from pathlib import Path
from typing import Any

import pytest

from dmd.errors import DataError
from dmd.preparation.prepare import prepare
from dmd.preparation.sources.tar import list_members
from tests.helpers.sources import NewConfig, png_bytes, skipped, stored, values


def add(tar: tarfile.TarFile, name: str, content: bytes = b"", **header: Any) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    for key, value in header.items():
        setattr(member, key, value)
    tar.addfile(member, io.BytesIO(content))


def new_shard(file: Path, count: int = 20, **options: Any) -> tarfile.TarFile:
    """Open a new shard that holds `count` pictures of the grey values 0, 1, 2 and so on."""
    file.parent.mkdir(parents=True, exist_ok=True)
    tar = tarfile.open(file, "w", **options)  # noqa: SIM115  # the caller closes it
    for i in range(count):
        add(tar, f"{i:04d}.png", png_bytes(i))
    return tar


def read(new_config: NewConfig, tmp_path: Path, **changes: object) -> tuple[list[int], dict[str, str]]:
    """Prepare the shards in tmp_path/in; return the grey values, and the reasons by name of what was skipped."""
    result = prepare(
        new_config(**{"source": "webdataset", "folder": tmp_path / "in", "max_bad": 0.5, **changes}), tmp_path / "out"
    )
    reasons = {name: why for _, name, why in skipped(tmp_path / "out")} if result.skipped else {}
    return sorted(v for s in stored(tmp_path / "out").values() for v in values(s)), reasons


def test_links_are_the_files_that_they_stand_for(new_config: NewConfig, tmp_path: Path) -> None:
    with new_shard(tmp_path / "in/a.tar") as tar:
        for i in range(10):  # GNU tar writes a file that it meets a second time as a hard link
            add(tar, f"again/{i}.png", type=tarfile.LNKTYPE, linkname=f"000{i}.png")
        add(tar, "soft/1.png", type=tarfile.SYMTYPE, linkname="../later.png")
        add(tar, "later.png", type=tarfile.SYMTYPE, linkname="./0019.png")
    found, reasons = read(new_config, tmp_path)
    assert found == sorted([*range(20), *range(10), 19, 19]) and not reasons


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ({"type": tarfile.LNKTYPE, "linkname": "gone.png"}, "x.png is a link to gone.png, which the shard does not"),
        ({"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}, "a link to /etc/passwd, which the shard does not hold"),
        ({"type": tarfile.SYMTYPE, "linkname": "../../0001.png"}, "which the shard does not hold"),
        ({"type": tarfile.SYMTYPE, "linkname": "x.png"}, "a link that leads to no file"),
        ({"type": tarfile.FIFOTYPE}, "x.png is a device or pipe"),
        ({"type": tarfile.CHRTYPE}, "x.png is a device or pipe"),
    ],
)
def test_what_cannot_be_read_from_a_shard_is_counted(
    new_config: NewConfig, tmp_path: Path, header: dict[str, Any], reason: str
) -> None:
    with new_shard(tmp_path / "in/a.tar") as tar:
        add(tar, "x.png", **header)
    found, reasons = read(new_config, tmp_path)
    assert found == list(range(20)) and reason in reasons["a.tar/x"]


def test_a_sparse_file_is_counted(new_config: NewConfig, tmp_path: Path) -> None:
    """Its size is a number in the header, and no such number of bytes follows."""
    with new_shard(tmp_path / "in/a.tar") as tar:
        header = tarfile.TarInfo("x.png")
        header.type, header.size = tarfile.GNUTYPE_SPARSE, 512
        block = bytearray(header.tobuf(tarfile.GNU_FORMAT))
        block[386:410] = b"%011o\0%011o\0" % (0, 512)
        block[483:495] = b"%011o\0" % 10**9  # the size with its holes
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\0 " % sum(block)
        tar.fileobj.write(bytes(block) + bytes(512))  # type: ignore[union-attr]
        tar.offset += 1024
    found, reasons = read(new_config, tmp_path)
    assert found == list(range(20)) and "a sparse file" in reasons["a.tar/x"]


@pytest.mark.parametrize("layout", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_names_folders_and_endings_of_every_layout_are_read(new_config: NewConfig, tmp_path: Path, layout: int) -> None:
    long = "d" * 90 + "/" + "n" * 90 if layout == tarfile.USTAR_FORMAT else "é" * 150
    with new_shard(tmp_path / "in/a.tar", format=layout) as tar:
        add(tar, "folder", type=tarfile.DIRTYPE)
        add(tar, f"{long}.PNG", png_bytes(90))
        add(tar, "./folder//key.with.dots.png", png_bytes(91))
        add(tar, ".hidden.png", png_bytes(92))
    tarfile.open(tmp_path / "in/empty.tar", "w", format=layout).close()
    assert read(new_config, tmp_path) == ([*range(20), 90, 91], {})


def test_a_name_that_is_in_a_shard_twice_is_counted(new_config: NewConfig, tmp_path: Path) -> None:
    with new_shard(tmp_path / "in/a.tar") as tar:
        add(tar, "0003.png", png_bytes(99))
        add(tar, "./0004.PNG", png_bytes(99))
    found, reasons = read(new_config, tmp_path)
    assert found == [i for i in range(20) if i not in (3, 4)]
    assert reasons == {"a.tar/0003": "two files .png", "a.tar/0004": "two files .png"}


def test_files_of_a_sample_may_lie_apart_but_in_one_shard(new_config: NewConfig, tmp_path: Path) -> None:
    with new_shard(tmp_path / "in/a.tar") as tar:
        for i in range(19):
            add(tar, f"{i:04d}.txt", b"caption")
    with new_shard(tmp_path / "in/b.tar", 0) as tar:
        add(tar, "0019.txt", b"caption")
    found, reasons = read(new_config, tmp_path, captions="txt")
    assert found == list(range(19)) and reasons == {"a.tar/0019": "no .txt", "b.tar/0019": "no image"}


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
def test_a_header_of_a_terabyte_is_not_read(tmp_path: Path, kind: bytes) -> None:
    header = tarfile.TarInfo("x")
    header.type, header.size = kind, 10**12
    (tmp_path / "a.tar").write_bytes(header.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    with pytest.raises(DataError, match=r"not a tar file \(a header of 1,000,000,000,"):
        list_members(tmp_path / "a.tar")


def test_a_negative_size_and_endless_headers_are_errors(tmp_path: Path) -> None:
    block = bytearray(tarfile.TarInfo("x.png").tobuf(tarfile.GNU_FORMAT))
    block[124:136] = b"\xff" * 11 + b"\x00"  # -256 in base 256
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    (tmp_path / "a.tar").write_bytes(bytes(block) * 3 + bytes(1024))
    name = tarfile.TarInfo("x")
    name.type, name.size = tarfile.GNUTYPE_LONGNAME, 4
    (tmp_path / "b.tar").write_bytes((name.tobuf(tarfile.GNU_FORMAT) + b"abc\0" + bytes(508)) * 3000 + bytes(1024))
    for shard in ("a.tar", "b.tar"):
        with pytest.raises(DataError, match="not a tar file"):
            list_members(tmp_path / shard)


@pytest.mark.parametrize(
    ("label", "words"),
    [(b"9" * 5000, "5,000 bytes"), (b"-1", "'-1', not a label"), (b"\x1b[2J", r"not a label"), (b"", "'', not a")],
)
def test_a_label_that_is_no_number_is_counted(new_config: NewConfig, tmp_path: Path, label: bytes, words: str) -> None:
    with new_shard(tmp_path / "in/a.tar") as tar:
        for i in range(20):
            add(tar, f"{i:04d}.cls", label if i == 7 else b"0")
    found, reasons = read(new_config, tmp_path)
    assert len(found) == 19 and words in reasons["a.tar/0007"] and "\x1b" not in reasons["a.tar/0007"]


def test_a_huge_label_makes_no_class_names(new_config: NewConfig, tmp_path: Path) -> None:
    with new_shard(tmp_path / "in/a.tar") as tar:
        for i in range(20):
            add(tar, f"{i:04d}.cls", b"999999999999" if i == 7 else b"0")
    with pytest.raises(DataError, match=r"sample '0007' has the label 999999999999, but labels count from 0"):
        read(new_config, tmp_path)


def test_files_too_large_for_their_kind_are_not_read(new_config: NewConfig, tmp_path: Path) -> None:
    """Their sizes are in the header, and a file with holes takes no space on the disk."""
    with new_shard(tmp_path / "in/a.tar") as tar:
        for i in range(20):
            add(tar, f"{i:04d}.txt", b"caption")
    with (tmp_path / "in/b.tar").open("wb") as shard:
        for name, size in (("x.png", 2**40), ("x.txt", 1), ("y.txt", 2**40), ("y.png", 1)):
            header = tarfile.TarInfo(name)
            header.size = size
            shard.write(header.tobuf(tarfile.GNU_FORMAT))
            shard.truncate(shard.seek(-(-size // 512) * 512, io.SEEK_CUR))
        shard.truncate(shard.tell() + 1024)
    found, reasons = read(new_config, tmp_path, captions="txt")
    assert found == list(range(20))
    assert "1,099,511,627,776 bytes" in reasons["b.tar/x"] and "1,099,511,627,776 bytes" in reasons["b.tar/y"]


@pytest.mark.parametrize("url", ["s3://b/{0..99999999999}.tar", "s3://b/{0..999}{0..999}.tar"])
def test_an_address_of_countless_shards_is_an_error(new_config: NewConfig, tmp_path: Path, url: str) -> None:
    with pytest.raises(DataError, match="names more than 100,000 shards"):
        prepare(new_config(source="webdataset", url=url), tmp_path / "out")
