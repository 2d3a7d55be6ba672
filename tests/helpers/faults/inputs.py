"""Inputs of the cases that were reported: image folders, shards, captions, teachers, databases."""

import io
import os
import sqlite3
import struct
import tarfile
import zlib
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from PIL import Image
from sklearn.datasets import load_digits

from tests.helpers.sources import png_bytes, write_pictures
from tests.helpers.teachers.changes import Change
from tests.helpers.teachers.hub_folders import hub_folder

Changes = dict[str, object]
Make = Callable[[Path], Changes]  # (a new folder in the project) -> changes to params.yaml

SMALL = {"data.validation": 8, "data.test": 8}
CLASSES = ("jack-o'-lantern", "tench, Tinca tinca", "Kürbis")


def relative(place: Path) -> str:
    """The path of `place`, which is PROJECT/inputs/NAME, from the project."""
    return f"inputs/{place.name}"


def nothing(**changes: object) -> Make:
    """Changes without any file; __ in a keyword stands for a dot."""
    return lambda _place: {key.replace("__", "."): value for key, value in changes.items()}


def folder(
    edit: Callable[[Path], object] = lambda _: None,
    classes: tuple[str, ...] = ("cat", "dog"),
    count: int = 30,
    **changes: object,
) -> Make:
    """Class folders of `count` grey pictures each, which `edit` changes."""  # fmt: skip

    def make(place: Path) -> Changes:
        for i, name in enumerate(classes):
            write_pictures(place / name, count, first=i * count)
        edit(place)
        source = {"data.source": "folder", "data.folder": relative(place)}
        return source | SMALL | nothing(**changes)(place)

    return make


def digits(place: Path) -> Changes:
    """Digits of three classes whose names MLflow refuses, as ImageNet's on the hub are."""
    images = load_digits()
    for label, name in enumerate(CLASSES):
        (place / name).mkdir(parents=True)
        for i, image in enumerate(images.images[images.target == label][:60]):
            Image.fromarray((image * 15).astype("uint8")).save(place / name / f"{i}.png")
    return {"data.source": "folder", "data.folder": relative(place), "data.validation": 20, "data.test": 30}


def put(*names: str, content: bytes = b"x") -> Callable[[Path], None]:
    """Write files of one content; a name may be bytes in Latin-1."""

    def edit(place: Path) -> None:
        for name in names:
            with open(os.fsencode(place) + b"/" + name.encode("latin-1"), "wb") as file:  # noqa: PTH123 - a name in bytes
                file.write(content)

    return edit


def two_of_each(place: Path) -> None:
    """Add a test split of two pictures to the folders of a train split."""
    for name in ("cat", "dog"):
        write_pictures(place / "test" / name, 1, first=200)


def with_long_text(place: Path) -> None:
    """Give a whole PNG a text chunk that is longer than Pillow reads."""
    text = b"k\0" + b"x" * 2**21
    chunk = struct.pack(">I", len(text)) + b"tEXt" + text + struct.pack(">I", zlib.crc32(b"tEXt" + text))
    picture = png_bytes(250)
    (place / "cat/000.png").write_bytes(picture[:33] + chunk + picture[33:])


def huge_png(side: int) -> bytes:
    """A PNG of side x side black pixels of one bit, which takes a few hundred kilobytes."""
    pack = zlib.compressobj(9)
    rows = b"".join(pack.compress(bytes(1 + side // 8)) for _ in range(side)) + pack.flush()

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def shards(edit: Callable[[tarfile.TarFile], object] = lambda _: None, label: bytes = b"0", **changes: object) -> Make:
    """A shard of 40 samples with labels, and further members; one of validation; one of test, with `label`."""

    def make(place: Path) -> Changes:
        for split, count in (("train", 40), ("val", 12), ("test", 12)):
            with tarfile.open(place / f"{split}-0.tar", "w") as tar:
                for i in range(count):
                    add(tar, f"{i:04d}.png", png_bytes(i))
                    add(tar, f"{i:04d}.cls", label if split == "test" else b"0")
                    if "data__captions" in changes:
                        add(tar, f"{i:04d}.{changes['data__captions']}", b"a caption")
                if split == "train":
                    edit(tar)
        return {"data.source": "webdataset", "data.folder": relative(place)} | SMALL | nothing(**changes)(place)

    return make


def add(tar: tarfile.TarFile, name: str, content: bytes = b"", link: str = "") -> None:
    """Add a file to an archive, or a hard link."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    if link:
        member.type, member.linkname = tarfile.LNKTYPE, link
    tar.addfile(member, io.BytesIO(content))


def lost_links(tar: tarfile.TarFile) -> None:
    """Add five samples whose pictures are hard links to a file that the shard lacks."""
    for i in range(5):
        add(tar, f"x{i}.png", link="gone.png")
        add(tar, f"x{i}.cls", b"0")


def hard_links(tar: tarfile.TarFile) -> None:
    """Add 20 samples whose pictures are hard links, as GNU tar stores a file that it meets a second time."""
    for i in range(20):
        add(tar, f"again/{i:04d}.png", link=f"{i:04d}.png")
        add(tar, f"again/{i:04d}.cls", b"0")


def captions(*texts: str, count: int = 60, **changes: object) -> Make:
    """One folder of pictures with a table of captions, which are used in turn."""

    def make(place: Path) -> Changes:
        names = [f"{i:04d}.png" for i in range(count)]
        for i, name in enumerate(names):
            (place / name).write_bytes(png_bytes(i % 256))
        rows = "".join(f'{name},"{texts[i % len(texts)]}"\n' for i, name in enumerate(names))
        (place / "captions.csv").write_text(f"file_name,caption\n{rows}")
        source = {"data.source": "folder", "data.folder": relative(place), "data.captions": "captions.csv"}
        return source | SMALL | nothing(**changes)(place)

    return make


def teacher(kind: str, change: Change = lambda _: None, **changes: object) -> Make:
    """A teacher folder of a kind of tests/helpers/teachers/hub_folders.py, changed; its data are digits."""

    def make(place: Path) -> Changes:
        hub_folder(kind, place / "mine")
        change(place / "mine")
        source = {"teacher.source": "folder", "teacher.folder": f"{relative(place)}/mine", "pairs.count": 8}
        return source | nothing(**changes)(place)

    return make


def flatten(folder: Path) -> None:
    """Put the files of network and scheduler into the folder itself, as google/ddpm-cifar10-32 has them."""
    for part in ("unet", "scheduler"):
        for file in (folder / part).iterdir():
            file.rename(folder / file.name)
        (folder / part).rmdir()


def foreign_database(scheme: str, table: str) -> Callable[[Path], str]:
    """The address of a database with a row in `table` and a revision that no version of the tool has."""

    def make(place: Path) -> str:
        file = place / "other.db"
        with closing(sqlite3.connect(file)) as connection, connection:
            connection.execute("CREATE TABLE alembic_version (version_num TEXT)")
            connection.execute("INSERT INTO alembic_version VALUES ('ffffffffffff')")
            connection.execute(f"CREATE TABLE {table} (id TEXT)")
            connection.execute(f"INSERT INTO {table} VALUES ('1')")
        return f"{scheme}:///{file}"

    return make


def long_caption(tar: tarfile.TarFile) -> None:
    """Add a sample whose caption has 900 MB of zeros; they take no room on the disk."""
    add(tar, "x.png", png_bytes(7))
    add(tar, "x.cls", b"0")
    member = tarfile.TarInfo("x.txt")
    member.size = 900_000_000
    assert tar.fileobj is not None
    tar.fileobj.write(member.tobuf(tar.format))
    tar.fileobj.seek(-(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE, io.SEEK_CUR)
    tar.offset = tar.fileobj.tell()


def prompts(write: Callable[[Path], object]) -> Make:
    """Prompts in a parquet file, for a teacher and an evaluator of folders that hold none: the data come first."""

    def make(place: Path) -> Changes:
        (place / "texts").mkdir()
        write(place / "texts" / "a.parquet")
        folders = {f"{name}.folder": relative(place) for name in ("teacher", "evaluator")}
        sources = {f"{name}.source": "folder" for name in ("teacher", "evaluator")}
        source = {"data.source": "prompts", "data.folder": f"{relative(place)}/texts", "data.captions": "text"}
        return source | folders | sources

    return make


def many_row_groups(file: Path) -> None:
    """Write a file with a footer as long as that of half a million row groups."""
    footer = bytes(2**25)
    file.write_bytes(b"PAR1" + footer + len(footer).to_bytes(4, "little") + b"PAR1")


def long_text(file: Path) -> None:
    """Write a file with a text of 600 MB, which takes some kilobytes."""
    import pyarrow.parquet

    texts = pyarrow.table({"text": ["a", "x" * 600_000_000]})
    pyarrow.parquet.write_table(texts, file, compression="zstd")
