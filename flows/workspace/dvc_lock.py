"""dvc.lock: entries whose results are not in DVC's cache, as in a fresh clone, and a file that was cut off.

DVC writes the file in place, so a full disk or a kill can leave a part of it, with which no command of DVC works.

DVC looks into its run cache only for a stage without an entry in dvc.lock. An entry whose files are missing therefore
hides the result that another run has computed in this clone, and every experiment computes it again. DVC once had a
similar bug within the run cache (https://github.com/treeverse/dvc/issues/9420). This module removes such entries.
"""

import io
import time
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from dmd.errors import UserError
from dmd.storage.files import write_bytes
from flows.runtime.git import show_file
from flows.workspace.rwlock import find_holders

FILE = "dvc.lock"
STILL = 3.0  # seconds; DVC writes the file in less


def repair(root: Path) -> str | None:
    """Take the file of the last commit in place of one that was cut off; return a note, or None.

    Without such a commit the file is removed. Either way DVC's cache of runs still has what it recorded.

    Raises UserError if a process of DVC works in the folder, which may be about to write the rest.
    """
    file, end = root / FILE, time.monotonic() + STILL
    while _is_cut_off(file):
        if time.monotonic() < end:
            time.sleep(0.1)
            continue
        if holders := find_holders(root):
            raise UserError(f"{FILE} is cut off, and DVC runs in {root} ({holders}); wait for it or end it, run again")
        committed = show_file(root, "HEAD", FILE)
        if committed is None:
            file.unlink()
        else:
            write_bytes(file, committed)
        remedy = "removed" if committed is None else "that of the last commit again"
        return f"{FILE} was cut off, as by a full disk, and no process of DVC runs here: it is {remedy}"
    return None


def _is_cut_off(file: Path) -> bool:
    try:
        content = file.read_bytes()
        return not content.endswith(b"\n") or not isinstance(YAML(typ="safe").load(content), dict)
    except FileNotFoundError:
        return False
    except (YAMLError, ValueError):
        return True


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
