"""Folders for settings and caches of other tools, and a user's name, where the system provides none."""

import contextlib
import getpass
import os
from pathlib import Path

# Variable that names a tool's folder -> its default below the home folder. A tool fails or warns if it cannot make it.
FOLDERS = {
    "PREFECT_HOME": ".prefect",
    "MPLCONFIGDIR": ".config/matplotlib",
    "HF_HOME": ".cache/huggingface",
    "TORCH_HOME": ".cache/torch",
    "XDG_CACHE_HOME": ".cache",
}


def provide_home(own: Path) -> None:
    """Name folders below `own` for tools whose default folder does not exist and cannot be made: a read-only home."""
    home = Path(os.path.expanduser("~"))  # noqa: PTH111 - Path.home() raises for a user without a home
    for variable, default in FOLDERS.items():
        if variable not in os.environ and not (home / default).exists() and not _can_make(home, default):
            folder = own / default.rpartition("/")[2].removeprefix(".")
            os.environ[variable] = str(folder)
            with contextlib.suppress(OSError):  # flows/preflight names a project that cannot be written
                folder.mkdir(parents=True, exist_ok=True)
    try:
        getpass.getuser()  # DVC calls it
    except (KeyError, OSError):  # a user id without a name, as in a container
        os.environ["USER"] = f"uid{os.getuid()}"


def _can_make(home: Path, default: str) -> bool:
    place = home / default
    while not place.exists() and place != home:
        place = place.parent
    return home.is_absolute() and place.is_dir() and os.access(place, os.W_OK)
