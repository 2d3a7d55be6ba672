"""A pickle of kilobytes that stands for more values than any memory holds is refused in seconds."""

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dmd.edm.pickles import read_checkpoint
from dmd.errors import PickleError
from tests.helpers.faults.pickles import Evil

LEVELS = 60  # of two references each: 2^60 values


def nest(value: Any, join: Callable[[Any, Any], Any], levels: int = LEVELS) -> Any:
    """Return a value inside `levels` others, each of which holds the one before twice."""
    for _ in range(levels):
        value = join(value, value)
    return value


def module(**state: Any) -> nn.Module:
    """A module with other attributes than its own."""
    net = nn.Linear(2, 2)
    net.__dict__.update(state)
    return net


def write(file: Path, content: dict[str, Any]) -> Path:
    file.write_bytes(pickle.dumps(content, 4))
    return file


TENSOR, TEXT, TUPLE = torch.zeros(10**5), "y" * 10**5, nest((), lambda a, b: (a, b), 3)


@pytest.mark.parametrize(
    "network",
    [
        module(_init_args=(nest([], lambda a, b: [a, b]),)),
        module(_init_kwargs={"a": [TEXT] * 10**5}),
        module(_parameters={str(i): TENSOR for i in range(1000)}),
        nest(nn.Linear(2, 2), lambda a, b: module(_modules={"a": a, "b": b})),
    ],
    ids=["arguments", "text", "tensors", "modules"],
)
def test_a_network_whose_values_are_named_too_often_is_refused(tmp_path: Path, network: nn.Module) -> None:
    file = write(tmp_path / "net.pkl", {"ema": network})
    assert file.stat().st_size < 2**20
    with pytest.raises(PickleError, match="names some values so often that, written out, they would fill the memory"):
        read_checkpoint(file)


def test_a_value_that_contains_itself_is_refused(tmp_path: Path) -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(PickleError, match="a value that contains itself"):
        read_checkpoint(write(tmp_path / "net.pkl", {"ema": module(_init_args=(endless,))}))


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize(
    "value",
    [{TUPLE: 1}, {TUPLE: 1, 2: 3}, {TUPLE}, frozenset([TUPLE]), OrderedDict({TUPLE: 1}), OrderedDict({1: 2, TUPLE: 1})],
)
def test_a_key_that_takes_for_ever_to_hash_is_refused(tmp_path: Path, protocol: int, value: Any) -> None:
    """The tuples of a pickle can be nested sixty times, which none that is hashed here could be."""
    (tmp_path / "net.pkl").write_bytes(pickle.dumps({"ema": module(), "more": value}, protocol))
    with pytest.raises(PickleError, match="a key that is no text and no number"):
        read_checkpoint(tmp_path / "net.pkl")


def test_a_storage_that_is_compressed_is_refused(tmp_path: Path) -> None:
    """torch compresses none; a megabyte could unpack to a gigabyte."""
    whole, packed = io.BytesIO(), io.BytesIO()
    torch.save(torch.zeros(10**6).untyped_storage(), whole)
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for member in source.infolist():
            target.writestr(member.filename, source.read(member))
    evil = Evil(torch.storage._load_from_bytes, packed.getvalue())
    with pytest.raises(PickleError, match="_load_from_bytes of compressed bytes"):
        read_checkpoint(write(tmp_path / "net.pkl", {"ema": module(), "more": evil}))
