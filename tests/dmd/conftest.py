"""Fixtures for the tests of dmd: small teachers in the hub's format."""

from pathlib import Path

import pytest

from tests.helpers.teachers.hub_folders import KINDS, hub_folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder for each kind of teacher: ddpm, dit, sd, sdxl and the text transformers."""
    root = tmp_path_factory.mktemp("hub")
    return {kind: hub_folder(kind, root / kind) for kind in KINDS}
