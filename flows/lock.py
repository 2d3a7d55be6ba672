"""dvc.lock where results that it names are not in the cache at hand, as in a fresh clone.

DVC asks its cache of earlier runs only for a stage without an entry: one whose files are nowhere hides what another run
here has computed since, and every experiment would compute it again.
"""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path

from ruamel.yaml import YAML

from dmd.files import write_bytes

LOCK = "dvc.lock"


def missing(root: Path) -> list[str]:
    """Stages of dvc.lock whose results are not in DVC's cache."""
    from dvc.repo import Repo  # a second
    from dvc.stage import PipelineStage

    with Repo(str(root)) as repo:
        stages = [s for s in repo.index.stages if isinstance(s, PipelineStage) and any(o.hash_info for o in s.outs)]
        return [str(s.name) for s in stages if any(out.use_cache and out.changed_cache() for out in s.outs)]


def forget_missing(root: Path) -> list[str]:
    """Take those out of dvc.lock; returns their names."""
    names = missing(root)
    if names:
        yaml = YAML()
        lock = yaml.load(root / LOCK)
        for name in names:
            del lock["stages"][name]
        text = io.BytesIO()
        yaml.dump(lock, text)
        write_bytes(root / LOCK, text.getvalue())
    return names


@contextlib.contextmanager
def of_what_is_here(root: Path) -> Iterator[list[str]]:
    """The same for the length of a block: then dvc.lock is put back, unless something else has written it."""
    path = root / LOCK
    before = path.read_bytes() if path.exists() else b""
    missing = forget_missing(root)
    within = path.read_bytes() if path.exists() else b""
    try:
        yield missing
    finally:
        if path.exists() and path.read_bytes() == within != before:
            write_bytes(path, before)
