"""Foresees what a run makes of each stage: DVC's run cache is looked up, and nothing runs.

`dvc repro --dry` takes the inputs of a stage from the disk. After a change, those that other stages write are still the
old ones there, and a fresh worktree has none. Here the hashes that the stages before will write take their place.
"""

import contextlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.stage.cache import _get_cache_hash
from dvc.stage.serialize import to_single_stage_lockfile

from dmd.errors import UserError
from flows.runtime.errors import one_line
from flows.workspace.graph import name_stage

RUNS, RESTORED, UNCHANGED = "runs", "restored from DVC's cache", "unchanged"
OPEN = "runs if its inputs change"  # a stage before it runs, and what that writes is not known

Outs = dict[str, Any]  # the outputs of stages, by path; None if the hash is not known


def foresee(
    root: Path, names: Collection[str], stale: Collection[str], missing: Collection[str], force: Collection[str]
) -> dict[str, str]:
    """Return the outcome of each stage: RUNS, RESTORED, UNCHANGED or OPEN.

    names: the stages in an order in which they can run. stale: those that DVC reports as changed. missing: those whose
    recorded results no cache has. force: those that run in any case. Raises UserError if DVC fails.
    """
    outs: Outs = {}
    outcomes: dict[str, str] = {}
    try:
        with contextlib.chdir(root), Repo(str(root)) as repo:  # DVC looks for the stages of its cache in this folder
            stages = {name_stage(stage): stage for stage in repo.index.stages}
            for name in names:
                outcomes[name] = _foresee_stage(stages[name], outs, name in stale, name in missing, name in force)
    except (DvcException, OSError) as e:
        raise UserError(f"DVC can't tell which results of {root} its cache has: {one_line(e)}") from e
    return outcomes


def _foresee_stage(stage: Any, outs: Outs, is_stale: bool, is_missing: bool, is_forced: bool) -> str:
    """Return the outcome of a stage, and add its outputs to `outs`, which has those of the stages before it."""
    made = [dep for dep in stage.deps if dep.fs_path in outs]
    is_known = all(outs[dep.fs_path] is not None for dep in made)
    has_changed = stage.cmd_changed or any(dep.changed() for dep in stage.deps if dep.fs_path not in outs)
    new = stage.outs
    if is_forced or (not is_known and (has_changed or is_missing)):
        outcome = RUNS
    elif not is_known:
        outcome = OPEN
    elif has_changed or any(dep.hash_info != outs[dep.fs_path].hash_info for dep in made):
        new = _look_up(stage, outs)
        outcome = RUNS if new is None else RESTORED
    elif is_missing:
        outcome = RUNS
    else:
        outcome = RESTORED if is_stale else UNCHANGED
    if outcome in (RUNS, OPEN) or new is None:
        outs |= {out.fs_path: None for out in stage.outs}
    else:
        outs |= {out.fs_path: out for out in new}
    return outcome


def _look_up(stage: Any, outs: Outs) -> list[Any] | None:
    """Return the outputs that an earlier run of the stage with the same inputs has left in the cache, else None.

    `StageCache.restore` does the same with the inputs on the disk.
    """
    if not stage.deps or stage.always_changed:  # DVC remembers no such run
        return None
    for dep in stage.deps:
        if made := outs.get(dep.fs_path):
            dep.hash_info, dep.meta = made.hash_info, made.meta
        elif not dep.exists:
            return None
        else:
            dep.save()
    cache = stage.repo.stage_cache
    key = _get_cache_hash(to_single_stage_lockfile(stage), key=True)
    entries = sorted(Path(cache.cache_dir, key[:2], key).glob("*"), key=lambda file: -file.stat().st_mtime_ns)
    entry = cache._load_cache(key, entries[0].name) if entries else None
    if entry is None:
        return None
    earlier = cache._create_stage(entry, wdir=stage.wdir)
    return list(earlier.outs) if earlier.outs_cached() else None
