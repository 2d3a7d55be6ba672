"""The folder of DVC's cache."""

from pathlib import Path

from dvc.exceptions import DvcException
from dvc.repo import Repo

from dmd.errors import UserError
from flows.runtime.errors import one_line


def find_cache(root: Path) -> Path:
    """Return the folder of DVC's cache, which may not exist yet. Raises UserError if DVC cannot tell."""
    try:
        with Repo(str(root)) as repo:
            return Path(repo.config["cache"].get("dir") or root / ".dvc" / "cache")
    except (DvcException, OSError) as e:
        raise UserError(f"DVC can't open {root}: {one_line(e)}") from e
