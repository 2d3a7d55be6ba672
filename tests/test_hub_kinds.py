"""Teachers in the hub's own format that are taken as they come, and those that cannot be."""

from pathlib import Path

import pytest
import torch
from hub_folders import KINDS, half, hub_folder
from torch import nn

from dmd.pipelines import load_pipeline


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("hub")
    return {kind: hub_folder(kind, root / kind) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_a_teacher_in_float16_is_worked_with_in_float32(folders: dict[str, Path], tmp_path: Path, kind: str) -> None:
    """A text encoder left in float16 would give a generator that its own stock pipeline cannot run."""
    pipe = load_pipeline(half(folders[kind], tmp_path / "half"))
    parts = {name: part for name, part in pipe.components.items() if isinstance(part, nn.Module)}
    assert {p.dtype for part in parts.values() for p in part.parameters()} == {torch.float32}, parts.keys()
