"""Changes of parameters by dotted keys, such as train.batch_size."""

import difflib
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from dmd.errors import ConfigError, quote

OPEN_GROUPS = ("train.launcher_options",)  # groups of params.yaml to which a change may add a key


def change_values(params: dict[str, Any], changes: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return a copy of the groups of params.yaml with new values for dotted keys. The result is not validated.

    where: the source of the changes, named in errors. Raises ConfigError for a key that params.yaml does not have.
    """
    new = deepcopy(params)
    for key, value in changes.items():
        *path, last = key.split(".")
        group: Any = new
        for part in path:
            group = group.get(part) if isinstance(group, dict) else None
        if not isinstance(group, dict) or (last not in group and ".".join(path) not in OPEN_GROUPS):
            raise ConfigError(f"{where}: {quote(key)}: params.yaml has no such key{_suggest(params, key)}")
        group[last] = value
    return new


def _suggest(params: dict[str, Any], key: str) -> str:
    """Return a hint with the name that is closest to the first unknown part of the key; "" if none is close."""
    group: Any = params
    for part in key.split("."):
        if not isinstance(group, dict):
            break
        if part not in group:
            close = difflib.get_close_matches(part, group, n=1)
            return f"; did you mean {close[0]!r}?" if close else ""
        group = group[part]
    return ""
