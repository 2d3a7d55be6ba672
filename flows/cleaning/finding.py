"""Finds everything that can be removed, while no run works in the project."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from dmd.config import load_params
from dmd.errors import UserError
from dmd.storage.worktree import main_worktree
from flows.cleaning.cache import find_orphans, hash_locks
from flows.cleaning.item import Item
from flows.cleaning.scratch import find_scratch
from flows.cleaning.versions import find_old_candidates, find_tags
from flows.pipeline.worktrees import LOCK, find_owners
from flows.registry.store import database, open_store, tracking_uri
from flows.runtime.file_lock import hold_lock
from flows.workspace.cache import find_cache
from flows.workspace.rwlock import find_holders

BUSY = "a run works in this project; wait for it, or stop it"


@contextlib.contextmanager
def keep_others_out(root: Path) -> Iterator[None]:
    """Hold the locks of runs and worktrees during a block, so that no run starts.

    Raises UserError if a run or DVC works in the project, or if a run works in a temporary worktree of it.
    """
    main = main_worktree(root)
    with hold_lock(main / "runs" / "flow.lock", BUSY), hold_lock(main / LOCK, BUSY):
        if owners := find_owners(main):
            raise UserError(f"{BUSY} ({', '.join(owners)})")
        if holders := find_holders(main):
            raise UserError(f"DVC works in {main} ({holders}); wait for it or end it")
        yield


def find_items(root: Path, runs: Path, days: float, keep: int) -> list[Item]:
    """Return all items, kind by kind. Cache objects of the versions among them are found only after their removal."""
    main, name = main_worktree(root), load_params(root / "params.yaml").register_.name
    items, commits, digests = list(find_scratch(runs, days)), set[str](), set[str]()
    file = database(tracking_uri(root))
    if file is None or file.exists():
        with open_store(root) as client:
            commits, digests = find_tags(client, name)
            items += find_old_candidates(client, name, keep, hash_locks(main))
    return items + list(find_orphans(main, find_cache(main), commits, digests))
