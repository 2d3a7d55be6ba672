"""Old and new paths and modules of this project, so that an error can name the new path or module.

The schema in dmd/config.py checks for zoo/none, an old value in params.yaml.
"""

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from dmd.errors import ConfigError
from dmd.yaml_files import is_file, is_there

PATHS = {
    "presets": "experiments/presets",
    "ablations": "experiments/ablations",
    "benchmarks/fashion_mnist": "records/fashion_mnist",
    "benchmarks/fashion_mnist_text": "records/fashion_mnist_text",
    "compose.yaml": "deploy/compose.yaml",
    "prefect.yaml": "deploy/prefect.yaml",
    ".env.example": "deploy/.env.example",
}
USER_FILES = ("presets", "ablations", "compose.yaml", "prefect.yaml")  # a user's own files may still lie there

MODULES = {
    "benchmarks.keep": "flows.keep",
    "flows.guard": "flows.runtime.guard",
    "flows.lost_runs": "flows.services.lost_runs",
}


def find_new_path(path: str) -> str | None:
    """Return the new path of an old one, or of a file below it; None if the path has not moved."""
    for old, new in PATHS.items():
        if path.removeprefix("./") == old:
            return new
        if path.removeprefix("./").startswith(f"{old}/"):
            return new + path.removeprefix("./").removeprefix(old)
    return None


def check_path(path: Path, root: Path) -> None:
    """Raise ConfigError if a file does not exist and its path is an old one. A relative path is read from `root`."""
    relative = path.relative_to(root) if path.is_relative_to(root) else path
    if not is_there(root / path) and (new := find_new_path(relative.as_posix())):
        raise ConfigError(f"{relative} has moved: use {new}")


def check_value(value: object, key: str, root: Path) -> None:
    """Raise ConfigError if the value of a key of params.yaml is an old path that does not exist."""
    if isinstance(value, str) and not is_there(root / value) and (new := find_new_path(value)):
        raise ConfigError(f"{key}: {value} has moved: use {new}")


def explain_preset(root: Path, name: str) -> str | None:
    """Return advice if a preset is given by its path or if its file lies in the old folder, else None."""
    stem = Path(name).name.removesuffix(".yaml")
    if is_file(root / PATHS["presets"] / f"{stem}.yaml") and stem != name:
        return f"a preset is given by its name: --preset {stem}"
    if is_file(root / "presets" / f"{stem}.yaml"):
        return f"presets have moved: git mv presets/{stem}.yaml {PATHS['presets']}/, then --preset {stem}"
    return None


def list_leftovers(root: Path) -> list[str]:
    """Return a line for each file or folder of the user that lies at an old path, where nothing reads it."""
    return [f"{old} is no longer read: move it to {PATHS[old]}" for old in USER_FILES if (root / old).exists()]


class MovedModuleFinder(importlib.abc.MetaPathFinder):
    """Names the new module in the error of `import OLD` and `python -m OLD`."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Raise ModuleNotFoundError for an old module; the finders before this one have not found it."""
        if new := MODULES.get(fullname):
            raise ModuleNotFoundError(f"{fullname} has moved: use {new}", name=fullname)
        return None


def install_finder() -> None:
    """Add the finder after those of Python; a second call does nothing."""
    if not any(isinstance(finder, MovedModuleFinder) for finder in sys.meta_path):
        sys.meta_path.append(MovedModuleFinder())
