"""Changes to params.yaml by dotted keys, from presets, overrides and ablations."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from dmd.config import NONE, validate
from dmd.config_changes import change_values
from dmd.config_paths import check_paths
from dmd.errors import ConfigError
from dmd.storage.files import write_bytes
from dmd.yaml_files import is_there
from flows.registry.gate import check_gate
from flows.runtime.git import git
from flows.runtime.moved import check_value

Change = bool | int | float | str
Value = Change | list[int] | list[float] | list[str]
Changes = Mapping[str, Value]

PATHS = (
    *("data.folder", "teacher.folder", "teacher.init_from", "evaluator.folder", "baseline.measured"),
    *("method.init_from", "method.lpips.weights", "encode.prompts"),
)


def change_params(params: dict[str, Any], changes: Changes, where: str, root: Path) -> dict[str, Any]:
    """Return params with the changes, validated as a whole.

    where: the source of the changes, named in errors

    Raises ConfigError for an unknown key, a value that is not allowed, or a path that does not exist below `root`.
    """
    new = change_values(params, changes, where)
    for key, value in changes.items():
        if any(isinstance(v, str) and "${" in v for v in (value if isinstance(value, list) else [value])):
            raise ConfigError(
                f"{where}: {key}: {value!r} contains ${{, which DVC would replace; write the value itself"
            )
        check_value(value, f"{where}: {key}", root)
    valid = validate(new, where)
    check_paths(valid, root, where)
    check_gate(valid.register_.gate)
    return new


def resolve_local_paths(params: dict[str, Any], changes: Changes, root: Path) -> dict[str, str]:
    """Return, as absolute values by key, the paths of params with the changes that a copy of the commit lacks.

    A relative path is one of the user's folder `root`. Experiments run in copies of the last commit, so a file or
    folder that git does not track would not exist there, and a folder of which git tracks a part would lack the rest.
    """
    resolved = {}
    for key in PATHS:
        value: Any = params
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        value = changes.get(key, value)
        if not isinstance(value, str) or value == NONE or Path(value).is_absolute() or not is_there(root / value):
            continue
        tracked, others = ("ls-files", "--", value), ("ls-files", "--others", "--directory", "--", value)
        if not git(root, *tracked) or git(root, *others):  # other files, also those of .gitignore
            resolved[key] = str((root / value).resolve())
    return resolved


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
