"""Entries of dvc.lock whose results are not in DVC's cache, as in a fresh clone.

DVC looks into its run cache only for a stage without an entry in dvc.lock. An entry whose files are missing therefore
hides the result that another run has computed in this clone, and every experiment computes it again. DVC once had a
similar bug within the run cache (https://github.com/treeverse/dvc/issues/9420). This module removes such entries.
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

FILE = "dvc.lock"
BACKUP = Path("runs") / "dvc.lock.json"
ABLATION_LOCK = Path("runs") / "ablate.lock"  # held while an ablation runs


def find_missing(root: Path) -> list[str]:
    """Return the stages of dvc.lock whose results are not in DVC's cache."""
    from dvc.repo import Repo  # takes a second
    from dvc.stage import PipelineStage

    with Repo(str(root)) as repo:
        stages = [s for s in repo.index.stages if isinstance(s, PipelineStage) and any(o.hash_info for o in s.outs)]
        return [str(s.name) for s in stages if any(out.use_cache and out.changed_cache() for out in s.outs)]


def remove_missing(root: Path) -> list[str]:
    """Remove the entries of the missing stages from dvc.lock; return their names."""
    if names := find_missing(root):
        write_bytes(root / FILE, _without(root, names))
    return names


def _without(root: Path, names: list[str]) -> bytes:
    """Return the content of dvc.lock without the named stages."""
    yaml = YAML()
    lock = yaml.load(root / FILE)
    for name in names:
        del lock["stages"][name]
    text = io.BytesIO()
    yaml.dump(lock, text)
    return text.getvalue()


@contextlib.contextmanager
def without_missing(root: Path) -> Iterator[list[str]]:
    """Remove the missing stages for the duration of a block and yield their names; afterwards restore dvc.lock.

    dvc.lock is not restored if another process has written it during the block. The backup is a file, so that the next
    process can restore dvc.lock if this one is killed.
    """
    restore(root)
    if names := find_missing(root):
        reduced = _without(root, names)
        backup = {"before": (root / FILE).read_bytes().decode(), "within": reduced.decode()}
        write_bytes(root / BACKUP, json.dumps(backup).encode())
        write_bytes(root / FILE, reduced)
    try:
        yield names
    finally:
        restore(root)


def restore(root: Path) -> None:
    """Restore dvc.lock from the backup, if there is one. The caller holds ABLATION_LOCK or is alone in the folder."""
    if not (root / BACKUP).exists():
        return
    backup = json.loads((root / BACKUP).read_bytes())
    if (root / FILE).exists() and (root / FILE).read_bytes() == backup["within"].encode():
        write_bytes(root / FILE, backup["before"].encode())
    (root / BACKUP).unlink()


def restore_abandoned(root: Path) -> None:
    """Restore dvc.lock after a killed ablation; do nothing while an ablation runs."""
    if (root / BACKUP).exists():
        with contextlib.suppress(UserError), hold_lock(root / ABLATION_LOCK, "an ablation works in this folder"):
            restore(root)
