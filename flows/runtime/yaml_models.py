"""Reads a YAML file of the user, such as a preset, as a pydantic model."""

import re
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from dmd.errors import ConfigError, join_mistakes, quote
from dmd.yaml_files import load_yaml

CHECK = "Value error, "  # what pydantic writes before the message of a check of ours
OF_TYPES = r"(function-\w+|list|union|constrained-\w+|dict)\[|(int|float|bool|str)$"  # in the place of an error
MESSAGE = 1000  # characters of what is wrong
M = TypeVar("M", bound=BaseModel)


def load_model(path: Path, model: type[M]) -> M:
    """Read and validate a file. Raises ConfigError with one line for each mistake: file, key and what is wrong."""
    try:
        return model.model_validate(load_yaml(path) or {})
    except ValidationError as e:
        raise ConfigError(join_mistakes(e.errors(), lambda error: f"{path}: {_describe(error)}")) from None


def _describe(error: ErrorDetails) -> str:
    return f"{_key(error['loc'])}{quote(error['msg'].removeprefix(CHECK).lower(), MESSAGE)}"


def _key(loc: tuple[int | str, ...]) -> str:
    """Return the dotted key of an error with a colon; "" for the whole file. Pydantic's names of types are left out."""
    key = ".".join(quote(part) for part in loc if not re.match(OF_TYPES, str(part)))
    return f"{key}: " if key else ""
