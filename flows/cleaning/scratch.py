"""Finds old scratch: checkpoints of unfinished runs, stored features, and files that a kill left half written."""

import re
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

from flows.cleaning.item import Item, size_of

STATE = re.compile(r"[a-z_]+-[0-9a-f]{16}")  # name of the folder of a run of a stage, see dmd/storage/checkpoint.py
FEATURES = "features"
LIVE = "live"  # folder of the live logs, see flows/live/spool.py
PARTIAL = re.compile(r"\..*\.partial")
DAY = 86400.0  # seconds


def find_scratch(runs: Path, days: float) -> Iterator[Item]:
    """Yield unfinished runs, stored features and live logs in `runs` that nothing has written to for `days` days.

    Downloads, compiled code, logs and databases there are kept.
    """
    before = time.time() - days * DAY
    for folder in sorted(runs.iterdir() if runs.is_dir() else ()):
        if folder.is_dir() and not folder.is_symlink() and STATE.fullmatch(folder.name) and _newest(folder) < before:
            yield Item("unfinished run", folder.name, size_of(folder), partial(shutil.rmtree, folder))
    for folder in sorted((runs / LIVE).glob("*/")):
        if not folder.is_symlink() and _newest(folder) < before:
            yield Item("live logs", folder.name, size_of(folder), partial(shutil.rmtree, folder))
    for file in sorted((runs / FEATURES).rglob("*")):
        if file.is_file() and file.stat().st_mtime < before:
            yield Item("stored features", file.name, size_of(file), partial(file.unlink, missing_ok=True))
    for file in sorted(runs.glob(".*.partial")):
        if PARTIAL.fullmatch(file.name) and file.is_file() and file.stat().st_mtime < before:
            yield Item("partial file", file.name, size_of(file), partial(file.unlink, missing_ok=True))


def _newest(folder: Path) -> float:
    """Return the time of the last change below a folder; a file that another process has removed does not count."""
    newest = 0.0
    for path in (folder, *folder.rglob("*")):
        with suppress(FileNotFoundError):
            newest = max(newest, path.lstat().st_mtime)
    return newest
