"""The file in which DVC notes who reads and writes which outputs; repaired if it was cut off.

DVC writes the file in place, so a full disk or a kill can leave a part of it. From then on every command of DVC fails
until the file is removed by hand.
"""

import contextlib
import json
from pathlib import Path

import psutil

from dmd.errors import UserError
from flows.runtime.process import is_running

FILE = Path(".dvc") / "tmp" / "rwlock"


def repair(root: Path) -> str | None:
    """Remove the file if it is cut off and no process of DVC works in the folder; return a note, or None.

    Raises UserError if a process of DVC works there, whose locks the removal would forget.
    """
    if not _is_cut_off(root / FILE):
        return None
    from dvc.lock import LockError, make_lock  # takes a second

    try:
        with make_lock(str(root / f"{FILE}.lock")):  # DVC holds it while it writes the file
            if not _is_cut_off(root / FILE):
                return None
            if holders := find_holders(root):
                raise UserError(
                    f"{FILE} is cut off, and DVC runs in {root} ({holders}); wait for it or end it, run again"
                )
            (root / FILE).unlink()
    except LockError:
        return None
    return f"{FILE} was cut off, as by a full disk, and no process of DVC runs here: it is removed"


def _is_cut_off(file: Path) -> bool:
    try:
        json.loads(file.read_bytes())
    except FileNotFoundError:
        return False
    except ValueError:
        return True
    return False


def find_holders(root: Path) -> str:
    """Return the ids of the processes of DVC that work in a folder, separated by commas."""
    ids = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if any(Path(word).name == "dvc" for word in words[:3]):
            with contextlib.suppress(psutil.Error):
                if Path(process.cwd()).is_relative_to(root.resolve()) and is_running(process):
                    ids.append(f"pid {process.pid}")
    return ", ".join(ids)
