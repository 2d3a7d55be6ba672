"""Addresses of registered versions, and what a version must hold."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import pytest

from dmd.errors import UserError
from flows.registry.address import download_generator, parse_address


def test_an_address_has_a_number_or_an_alias() -> None:
    assert parse_address("models:/digits/3") == ("digits", "3", None)
    assert parse_address("models:/digits@champion") == ("digits", None, "champion")
    with pytest.raises(UserError, match="'models:/digits' is not a registered version; write models:/NAME/VERSION"):
        parse_address("models:/digits")


def test_a_version_without_a_generator_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", lambda _model, dst_path: dst_path)
    version: Any = SimpleNamespace(name="other", version="2")
    with pytest.raises(UserError, match=r"models:/other/2 holds no generator\.json"):
        download_generator(version, tmp_path)
    (tmp_path / "model/data").mkdir(parents=True)
    (tmp_path / "model/data/generator.json").write_text("{}")
    assert download_generator(version, tmp_path) == tmp_path / "model/data"
