"""JSON of a stranger is read within bounds, every mistake in it is one line, and no name ends in a traceback."""

import os
from pathlib import Path

import pytest

from dmd.errors import DataError
from dmd.yaml_files import MAX_VALUES, is_file, is_folder, is_there, load_json, load_object

NAMES = ("x" * 5000, "a\0b", "x/" * 3000)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
        (b"\xff\xfe\x00", "is not JSON"),
        (b"[" * 100_000, "is not JSON: maximum recursion depth exceeded"),
        (b'{"a": ' * 100_000, "is not JSON: maximum recursion depth exceeded"),
        (b"9" * 5000, "is not JSON"),
        (b"[1, 2]", "holds list in place of a JSON object"),
        (b"null", "holds NoneType in place of a JSON object"),
        (b" " * 65, "is larger than 64 bytes"),
    ],
)
def test_hostile_json_is_one_line(tmp_path: Path, content: bytes, words: str) -> None:
    file = tmp_path / "a.json"
    file.write_bytes(content)
    with pytest.raises(DataError) as e:
        load_object(file, DataError, 64 if content.startswith(b" ") else 2**20)
    assert words in str(e.value) and str(file) in str(e.value)
    assert len(str(e.value)) < 1000 and len(str(e.value).splitlines()) == 1


def test_more_values_than_fit_into_memory_are_one_line(tmp_path: Path) -> None:
    """64 MiB of empty lists would take two gigabytes. Marks within a text, and quotes within it, count for nothing."""
    file = tmp_path / "a.json"
    file.write_bytes(b"[" + b"[]," * (MAX_VALUES // 2) + b"1]")
    with pytest.raises(DataError, match=r"a\.json holds more than 3,000,000 values, the most that are read"):
        load_json(file, DataError)
    file.write_bytes(b'["' + b'a,[{\\",' * (MAX_VALUES // 4) + b'"]')
    assert len(load_json(file, DataError)) == 1


def test_what_is_no_file_is_one_line(tmp_path: Path) -> None:
    """A pipe would wait for ever, and /dev/zero would fill the memory."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to("loop")
    for name in (".", "pipe", "zero", "loop", "missing", *NAMES):
        with pytest.raises(DataError, match="cannot be read"):
            load_json(tmp_path / name, DataError)


def test_a_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": [1, "ü"]}', encoding="utf-8")
    assert load_object(tmp_path / "a.json", DataError) == {"a": [1, "ü"]}


def test_any_name_can_be_asked_for(tmp_path: Path) -> None:
    """Path.is_dir and its like raise OSError for a name that is too long."""
    (tmp_path / "file").touch()
    assert [(is_file(p), is_folder(p), is_there(p)) for p in (tmp_path, tmp_path / "file")] == [
        (False, True, True),
        (True, False, True),
    ]
    for name in NAMES:
        assert not (is_file(tmp_path / name) or is_folder(tmp_path / name) or is_there(tmp_path / name))
