"""Change a params.yaml by dotted keys, and loaded parameters by groups."""

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from dmd.config import Params


def set_params(file: Path, changes: dict[str, Any], renames: dict[str, str] | None = None) -> None:
    """Set and rename dotted keys of a YAML file.

    changes: dotted key -> value; the key may be new, its group may not. renames: dotted key -> its new last part.
    Raises KeyError if a group, or a key to rename, is missing.
    """
    yaml = YAML()
    params = yaml.load(file)

    def find(key: str) -> tuple[Any, str]:
        group, *parts = params, *key.split(".")
        for part in parts[:-1]:
            group = group[part]
        return group, parts[-1]

    for key, name in (renames or {}).items():
        group, old = find(key)
        group[name] = group.pop(old)
    for key, value in changes.items():
        group, name = find(key)
        group[name] = value
    yaml.dump(params, file)


def with_values(params: Params, **groups: dict[str, Any]) -> Params:
    """Copy of the parameters with new values for keys of groups."""
    return params.model_copy(update={g: getattr(params, g).model_copy(update=values) for g, values in groups.items()})
