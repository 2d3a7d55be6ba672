"""dvc.lock where results that it names are not in the cache at hand, as in a fresh clone.

DVC asks its cache of earlier runs only for a stage without an entry: one whose files are nowhere hides what another run
here has computed since, and every experiment would compute it again.
"""

import contextlib
import io
import json
from collections.abc import Iterator
from pathlib import Path

from ruamel.yaml import YAML

from dmd.errors import UserError
from dmd.storage.files import write_bytes
from flows.runtime.file_lock import hold_lock

LOCK = "dvc.lock"
BACKUP = Path("runs") / "dvc.lock.json"
ABLATION_LOCK = Path("runs") / "ablate.lock"  # held while an ablation is at work


def find_missing(root: Path) -> list[str]:
    """Stages of dvc.lock whose results are not in DVC's cache."""
    from dvc.repo import Repo  # a second
    from dvc.stage import PipelineStage

    with Repo(str(root)) as repo:
        stages = [s for s in repo.index.stages if isinstance(s, PipelineStage) and any(o.hash_info for o in s.outs)]
        return [str(s.name) for s in stages if any(out.use_cache and out.changed_cache() for out in s.outs)]


def remove_missing(root: Path) -> list[str]:
    """Take those out of dvc.lock; returns their names."""
    if names := find_missing(root):
        write_bytes(root / LOCK, _without(root, names))
    return names


def _without(root: Path, names: list[str]) -> bytes:
    yaml = YAML()
    lock = yaml.load(root / LOCK)
    for name in names:
        del lock["stages"][name]
    text = io.BytesIO()
    yaml.dump(lock, text)
    return text.getvalue()


@contextlib.contextmanager
def without_missing(root: Path) -> Iterator[list[str]]:
    """The same for the length of a block: then dvc.lock is put back, unless something else has written it.

    What it was is kept in a file: where a process is killed within, the next one puts it back.
    """
    restore(root)
    if names := find_missing(root):
        within = _without(root, names)
        kept = {"before": (root / LOCK).read_bytes().decode(), "within": within.decode()}
        write_bytes(root / BACKUP, json.dumps(kept).encode())
        write_bytes(root / LOCK, within)
    try:
        yield names
    finally:
        restore(root)


def restore(root: Path) -> None:
    """End what `without_missing` has begun. The caller holds ABLATION_LOCK, or runs alone in the folder."""
    if not (root / BACKUP).exists():
        return
    kept = json.loads((root / BACKUP).read_bytes())
    if (root / LOCK).exists() and (root / LOCK).read_bytes() == kept["within"].encode():
        write_bytes(root / LOCK, kept["before"].encode())
    (root / BACKUP).unlink()


def restore_abandoned(root: Path) -> None:
    """The same for another command, where no ablation is at work."""
    if (root / BACKUP).exists():
        with contextlib.suppress(UserError), hold_lock(root / ABLATION_LOCK, "an ablation works in this folder"):
            restore(root)
