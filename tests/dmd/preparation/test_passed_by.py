"""Files that hold no record are passed by and counted, whatever the source."""

import io
from pathlib import Path

import pytest
from PIL import Image

from dmd.data.splits import MANIFEST, load_split
from dmd.errors import DataError
from dmd.preparation.prepare import Prepared, prepare
from tests.helpers.sources import NewConfig, png_bytes, stored, values, write_pictures, write_shard

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n"


def put(folder: Path, *names: str, content: bytes = b"x") -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def read(new_config: NewConfig, tmp_path: Path, **changes: object) -> Prepared:
    return prepare(new_config(**{"source": "folder", "folder": tmp_path / "in", **changes}), tmp_path / "out")


def test_half_a_class_in_another_format_is_counted_by_ending(new_config: NewConfig, tmp_path: Path) -> None:
    write_pictures(tmp_path / "in/cat", 10)
    write_pictures(tmp_path / "in/dog", 10, first=50)
    put(tmp_path / "in/cat", *(f"{i}.HEIC" for i in range(7)), *(f"IMG_{i}" for i in range(3)), "deep/er/a.svg")
    result = read(new_config, tmp_path)
    assert result.passed_by == {".heic": 7, "without an ending": 3, ".svg": 1} and not result.skipped
    assert (
        '"passed_by": {\n    ".heic": 7,\n    ".svg": 1,\n    "without an ending": 3\n  }'
        in (tmp_path / "out" / MANIFEST).read_text()
    )
    assert load_split(tmp_path / "out", "train").class_names == ("cat", "dog")


@pytest.mark.parametrize(
    "name", ["README.pdf", "features.h5", "notes.ps", "a.eps", "film.mpg", "film.mpeg", "a.wmf", "a.emf", "a.grib"]
)
def test_what_pillow_does_not_decode_is_no_picture_beside_the_classes(
    new_config: NewConfig, tmp_path: Path, name: str
) -> None:
    write_pictures(tmp_path / "in/cat", 10)
    write_pictures(tmp_path / "in/dog", 10, first=50)
    put(tmp_path / "in", name, content=EPS)
    assert read(new_config, tmp_path).passed_by == {Path(name).suffix: 1}


def test_files_of_the_desktop_are_ignored(new_config: NewConfig, tmp_path: Path) -> None:
    write_pictures(tmp_path / "in/cat", 10)
    write_pictures(tmp_path / "in/dog", 10, first=50)
    put(
        tmp_path / "in",
        ".DS_Store",
        "Thumbs.db",
        "desktop.ini",
        "cat/._000.png",
        ".git/a.png",
        "__MACOSX/cat/._000.png",
    )
    result = read(new_config, tmp_path)
    assert not result.passed_by and not result.skipped and sum(result.counts.values()) == 20


def test_the_table_is_not_passed_by_but_its_neighbours_are(new_config: NewConfig, tmp_path: Path) -> None:
    write_pictures(tmp_path / "in", 10)
    put(
        tmp_path / "in",
        "captions.csv",
        content=b"file_name,caption\n" + b"".join(b"%03d.png,c\n" % i for i in range(10)),
    )
    put(tmp_path / "in", "captions.bak")
    assert read(new_config, tmp_path, captions="captions.csv").passed_by == {".bak": 1}


def test_pictures_beside_the_folders_of_splits_are_counted(new_config: NewConfig, tmp_path: Path) -> None:
    write_pictures(tmp_path / "in/train/cat", 10)
    write_pictures(tmp_path / "in/test/cat", 5, first=50)
    write_pictures(tmp_path / "in", 2, first=90)
    assert read(new_config, tmp_path).passed_by == {".png": 2}


def test_shards_of_another_kind_and_files_beside_prompts_are_counted(new_config: NewConfig, tmp_path: Path) -> None:
    write_shard(tmp_path / "in/a.TAR", 0, 20)
    put(tmp_path / "in", "b.tar.gz", "c.tgz", "classes.txt", content=b"red\ngreen\nblue\n")
    assert read(new_config, tmp_path, source="webdataset").passed_by == {".gz": 1, ".tgz": 1}
    put(tmp_path / "texts", "a.TXT", content=b"one\ntwo\nthree\nfour\nfive\nsix\nseven\n")
    put(tmp_path / "texts", "more.csv")
    assert read(new_config, tmp_path, source="prompts", folder=tmp_path / "texts").passed_by == {".csv": 1}


def test_a_set_with_everything_at_its_place_has_no_such_key(data_folder: Path) -> None:
    assert "passed_by" not in (data_folder / MANIFEST).read_text()


def test_the_content_of_a_file_decides_which_format_is_read(new_config: NewConfig, tmp_path: Path) -> None:
    write_pictures(tmp_path / "in", 10)
    put(tmp_path / "in", "really_png.jpg", content=png_bytes(90))
    animation = io.BytesIO()
    frames = [Image.new("L", (8, 8), value) for value in (91, 200)]
    frames[0].save(animation, "GIF", save_all=True, append_images=frames[1:])
    put(tmp_path / "in", "moves.GIF", content=animation.getvalue())
    pages = io.BytesIO()
    Image.new("L", (8, 8), 92).save(pages, "TIFF", save_all=True, append_images=frames[1:])
    put(tmp_path / "in", "pages.tif", content=pages.getvalue())
    read(new_config, tmp_path)
    found = sorted(v for s in stored(tmp_path / "out").values() for v in values(s))
    assert found == [*range(10), 90, 91, 92]


@pytest.mark.parametrize(
    "content", [b"", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n", b"GIF89a"]
)
def test_a_picture_in_name_alone_is_counted_as_unusable(new_config: NewConfig, tmp_path: Path, content: bytes) -> None:
    write_pictures(tmp_path / "in", 10)
    put(tmp_path / "in", "x.png", content=content)
    assert [s.name for s in read(new_config, tmp_path, max_bad=0.1).skipped] == ["x.png"]
    with pytest.raises(DataError, match=r"1 of 11 images cannot be used.*x\.png"):
        read(new_config, tmp_path, max_bad=0.0)
