"""Changes to params.yaml by dotted keys, from presets, overrides and ablations."""

import difflib
import io
import json
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from dmd.config import NONE, validate
from dmd.config_paths import check_paths
from dmd.errors import ConfigError
from dmd.storage.files import write_bytes
from flows.pipeline.checks import check_run
from flows.runtime.git import git
from flows.runtime.moved import check_value

Change = bool | int | float | str
Changes = Mapping[str, Change | list[int]]

PATHS = (
    *("data.folder", "teacher.folder", "evaluator.folder", "baseline.measured"),
    *("method.init_from", "method.lpips.weights"),
)
OPEN_GROUPS = ("train.launcher_options",)  # groups of params.yaml to which a change may add a key


def change_params(params: dict[str, Any], changes: Changes, where: str, root: Path) -> dict[str, Any]:
    """Return params with the changes, validated as a whole.

    where: the source of the changes, named in errors

    Raises ConfigError for an unknown key, a value that is not allowed, or a path that does not exist below `root`.
    """
    new = deepcopy(params)
    for key, value in changes.items():
        *path, last = key.split(".")
        group: Any = new
        for part in path:
            group = group.get(part) if isinstance(group, dict) else None
        if not isinstance(group, dict) or (last not in group and ".".join(path) not in OPEN_GROUPS):
            raise ConfigError(f"{where}: {key}: params.yaml has no such key{_suggest(params, key)}")
        if isinstance(value, str) and "${" in value:
            raise ConfigError(
                f"{where}: {key}: {value!r} contains ${{, which DVC would replace; write the value itself"
            )
        check_value(value, f"{where}: {key}", root)
        group[last] = value
    valid = validate(new, where)
    check_paths(valid, root, where)
    check_run(valid)
    return new


def resolve_local_paths(params: dict[str, Any], changes: Changes, root: Path) -> dict[str, str]:
    """Return, as absolute values by key, the paths of params with the changes that a copy of the commit lacks.

    A relative path is one of the user's folder `root`. Experiments run in copies of the last commit, so a file or
    folder that git does not track would not exist there.
    """
    resolved = {}
    for key in PATHS:
        value: Any = params
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        value = changes.get(key, value)
        if not isinstance(value, str) or value == NONE or Path(value).is_absolute() or not (root / value).exists():
            continue
        if not git(root, "ls-files", "--", value):
            resolved[key] = str((root / value).resolve())
    return resolved


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


def change_file(changes: Changes, file: Path) -> None:
    """Write the changes into a params.yaml and keep its comments.

    Raises ConfigError if YAML cannot hold a value, so that the file would read back another one.
    """
    yaml, text = YAML(), io.BytesIO()
    params = yaml.load(file)
    for key, value in changes.items():
        *path, last = key.split(".")
        group = params
        for part in path:
            group = group[part]
        group[last] = value
    yaml.dump(params, text)  # a file would be encoded as the locale says
    if difference := find_difference(changes, text.getvalue()):
        raise ConfigError(f"{difference}: YAML cannot hold this value; choose another one")
    write_bytes(file, text.getvalue())


def find_difference(changes: Changes, params: bytes) -> str | None:
    """Return the first change that the text of a params.yaml does not hold to the letter and type, and what it holds.

    Returns None if it holds all changes.
    """
    try:
        tree = YAML(typ="safe").load(params)
    except (YAMLError, ValueError) as e:
        return f"not valid YAML ({' '.join(str(e).split())})"
    for key, asked in changes.items():
        value = tree
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if json.dumps(value, default=repr) != json.dumps(asked):  # as Python objects, 1, 1.0 and True are equal
            return f"{key}: {asked!r} became {value!r}"
    return None
