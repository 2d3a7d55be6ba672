"""A kept file is used only if it fits its checksum, and a damaged one is named and removed."""

import subprocess
from pathlib import Path

import pytest

from dmd.storage.seal import is_usable, seal_of, write_seal
from tests.helpers.faults.damage import DAMAGES, do_damage


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Two kept files."""
    files = [tmp_path / "a", tmp_path / "b"]
    for file in files:
        file.write_text(f"content of {file}")
        write_seal(file)
    return files


@pytest.mark.parametrize("keep_time", [True, False], ids=["same-time", "new-time"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_named_and_removed(
    damage: str, keep_time: bool, files: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert all(map(is_usable, files)) and capsys.readouterr().err == ""
    do_damage(damage, files, keep_time)
    assert [is_usable(file) for file in files] == [False, damage != "swapped"]
    assert f"note: {files[0]} is damaged" in capsys.readouterr().err
    assert not files[0].exists() and not seal_of(files[0]).exists()


def test_files_that_are_swapped_with_their_checksums_are_damaged(files: list[Path]) -> None:
    a, b = files
    for first, second in ((a, b), (seal_of(a), seal_of(b))):
        content = first.read_bytes()
        first.write_bytes(second.read_bytes())
        second.write_bytes(content)
    assert not is_usable(a) and not is_usable(b)


def test_a_file_without_a_checksum_is_incomplete(files: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    seal_of(files[0]).unlink()
    assert not is_usable(files[0]) and capsys.readouterr().err == ""


def test_the_checksum_is_in_the_format_of_sha256sum(files: list[Path]) -> None:
    subprocess.run(["sha256sum", "--check", "--strict", "a.sha256", "b.sha256"], cwd=files[0].parent, check=True)
