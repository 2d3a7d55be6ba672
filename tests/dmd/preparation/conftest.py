"""Fixtures for the tests of data sources."""

from pathlib import Path

import pytest

from dmd.config import DataConfig, Params
from tests.helpers.sources import NewConfig


@pytest.fixture
def new_config(params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NewConfig:
    """A function that returns a DataConfig of small splits and grey 8x8 images, with changes."""
    monkeypatch.setenv("DMD_SCRATCH", str(tmp_path / "scratch"))
    default = {**params.data.model_dump(), "validation": 2, "test": 3, "caption": "a {name}", "max_bad": 0.0}
    return lambda **changes: DataConfig.model_validate({**default, **{k: _plain(v) for k, v in changes.items()}})


def _plain(value: object) -> object:
    return str(value) if isinstance(value, Path) else value
