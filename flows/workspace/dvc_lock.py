"""Entries of dvc.lock whose results are not in DVC's cache, as in a fresh clone.

DVC looks into its run cache only for a stage without an entry in dvc.lock. An entry whose files are missing therefore
hides the result that another run has computed in this clone, and every experiment computes it again. DVC once had a
similar bug within the run cache (https://github.com/treeverse/dvc/issues/9420). This module removes such entries.
"""

import io
from pathlib import Path

from ruamel.yaml import YAML

from dmd.storage.files import write_bytes

FILE = "dvc.lock"


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
        yaml, text = YAML(), io.BytesIO()
        lock = yaml.load(root / FILE)
        for name in names:
            del lock["stages"][name]
        yaml.dump(lock, text)
        write_bytes(root / FILE, text.getvalue())
    return names
