"""Fixtures for the tests of the pipeline."""

from pathlib import Path

import pytest

from tests.helpers.toy_graph import new_toy


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """A repository with three cheap stages."""
    return new_toy(tmp_path)
