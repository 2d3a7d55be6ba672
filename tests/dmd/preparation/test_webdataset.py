"""Shards in the WebDataset format are read with labels and captions, and damaged shards are an error."""

import tarfile
from pathlib import Path

import pytest

from dmd.data.splits import load_split
from dmd.errors import DataError
from dmd.preparation.prepare import prepare
from tests.helpers.sources import NewConfig, stored, values, write_shard


def test_shards_are_read_with_their_labels_and_captions(new_config: NewConfig, tmp_path: Path) -> None:
    write_shard(tmp_path / "in/train-000.tar", 0, 20)
    write_shard(tmp_path / "in/train-001.tar", 20, 20)
    write_shard(tmp_path / "in/test-000.tar", 100, 9)
    config = new_config(source="webdataset", folder=tmp_path / "in", captions="txt", test="all")
    assert prepare(config, tmp_path / "out").counts == {"train": 38, "validation": 2, "test": 9}
    splits = stored(tmp_path / "out")
    assert sorted(values(splits["test"])) == list(range(100, 109))
    for split in splits.values():
        assert split.labels.tolist() == [v % 3 for v in values(split)] and split.class_names == ("0", "1", "2")
        assert split.captions == [f"number {v}" for v in values(split)]
    (tmp_path / "in/classes.txt").write_text("red\ngreen\nblue\n")
    prepare(config, tmp_path / "named")
    assert load_split(tmp_path / "named", "test").class_names == ("red", "green", "blue")


@pytest.mark.parametrize("address", ["file://{}/train-{{000..001}}.tar::file://{}/test-0.tar"])
def test_shards_are_downloaded_once(
    new_config: NewConfig, tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, first in (("train-000", 0), ("train-001", 20), ("test-0", 100)):
        write_shard(tmp_path / f"remote/{name}.tar", first, 20)
    where = str(tmp_path / "remote")
    config = new_config(source="webdataset", url=address.format(where, where), test="all")
    assert prepare(config, tmp_path / "out").counts == {"train": 38, "validation": 2, "test": 20}
    (tmp_path / "remote/test-0.tar").unlink()
    assert prepare(config, tmp_path / "again").counts["test"] == 20
    with pytest.raises(DataError, match=r"no-such\.tar could not be fetched"):
        prepare(new_config(source="webdataset", url=f"file://{where}/no-such.tar"), tmp_path / "out")


@pytest.mark.parametrize("cut", [0.35, 0.999, "boundary"])
def test_a_truncated_shard_is_an_error(new_config: NewConfig, tmp_path: Path, cut: float | str) -> None:
    """This includes a shard that ends between two files, which tarfile takes for the end of the archive."""
    shard = tmp_path / "in/train-000.tar"
    write_shard(shard, 0, 20)
    with tarfile.open(shard) as tar:
        boundary = tar.getmembers()[30].offset
        end = tar.getmembers()[-1].offset_data
    content = shard.read_bytes()
    shard.write_bytes(content[: boundary if cut == "boundary" else int(float(cut) * end)])
    with pytest.raises(DataError, match=r"train-000\.tar is truncated"):
        prepare(new_config(source="webdataset", folder=tmp_path / "in"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
