"""Addresses of registered versions: models:/NAME/VERSION and models:/NAME@ALIAS."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from dmd.errors import UserError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

ADDRESS = re.compile(r"models:/([^/@]+)(?:/(\d+)|@(.+))")


def parse_address(model: str) -> tuple[str, str | None, str | None]:
    """Return name, number and alias, of which number or alias is None. Raises UserError for another form."""
    if not (match := ADDRESS.fullmatch(model)):
        raise UserError(f"{model!r} is not a registered version; write models:/NAME/VERSION or models:/NAME@ALIAS")
    return match[1], match[2], match[3]


def find_version(client: "MlflowClient", model: str) -> "ModelVersion":
    """Look a version up by its address.

    Raises UserError for a malformed address. If there is no such version it raises MlflowException, which becomes a
    UserError at the end of `open_store`.
    """
    name, number, alias = parse_address(model)
    return client.get_model_version(name, number) if number else client.get_model_version_by_alias(name, str(alias))


def download_generator(version: "ModelVersion", scratch: Path) -> Path:
    """Download a version into `scratch` and return the folder of its generator.

    Raises UserError for a version that holds no generator of this project.
    """
    import mlflow

    model = f"models:/{version.name}/{version.version}"
    folder = mlflow.artifacts.download_artifacts(model, dst_path=str(scratch / "model"))
    about = next(Path(folder).rglob("generator.json"), None)
    if about is None:
        raise UserError(f"{model} holds no generator.json, so another program registered it; name another version")
    return about.parent
