"""Temporary git worktrees that share DVC's cache: folders to run other code or parameters in.

`dvc exp run --temp` works in a copy too, but runs all stages in one command, without a task, retries or a timeout for
each stage.
"""

import contextlib
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from ruamel.yaml import YAML

from dmd.errors import UserError
from dmd.storage.worktree import main_worktree
from flows.pipeline.changes import change_file
from flows.pipeline.presets import Variant
from flows.runtime.file_lock import hold_lock
from flows.runtime.git import check_owner, ensure_identity, git, show_file
from flows.workspace.cache import find_cache
from flows.workspace.dvc_lock import remove_missing

# git and DVC sometimes fail if two processes change worktrees or experiments at the same time
# (https://github.com/treeverse/dvc/issues/8763, https://github.com/treeverse/dvc/issues/8516).
LOCK = Path("runs") / "worktrees.lock"
NO_HOOKS = ("-c", "core.hooksPath=/dev/null")  # a user's hook, such as post-checkout, is not meant for a temporary copy
CLOCK = 1.0  # seconds by which the system's clocks of processes and of files may differ
CACHE = ".cache"  # beside the worktree, in a folder of its own
OWNER = re.compile(r"onestep-(\d+)-")  # a folder's name holds the pid of the process that will remove it
# A worktree is locked with the name of its host: its process and folder may be visible there alone, so that git on
# another node or in another container, with the project on a shared file system, would drop it.
HOST = "onestep on "  # start of the reason of the lock


class Temporary(NamedTuple):
    """A temporary worktree."""

    place: Path
    owner: int  # id of the process that will remove it
    host: str | None  # the host of that process; None if git still makes the worktree, or if the version is older

    @property
    def is_foreign(self) -> bool:
        """Whether another host has made it, where alone its process can be seen."""
        return self.host not in (None, socket.gethostname())


@contextlib.contextmanager
def open_folder(root: Path, commit: str, variant: Variant | None) -> Iterator[Path]:
    """Yield the folder for a run: a worktree of `commit` with the variant's changes, or the project's folder.

    Raises UserError if another run works in the project's folder.
    """
    if variant is None:
        with hold_lock(root / "runs" / "flow.lock", "another run works in this folder; wait for it, or stop it"):
            yield root
        return
    with temporary_worktree(root, commit) as place:
        change_file(variant.changes, place / "params.yaml")
        yield place


@contextlib.contextmanager
def temporary_worktree(root: Path, commit: str) -> Iterator[Path]:
    """Check out a commit in a new folder, which is removed at the end of the block. Raises UserError."""
    main = main_worktree(root)
    if git(main, "cat-file", "-e", f"{commit}^{{commit}}") is None:
        raise UserError(f"this repository has no commit {commit}; run git fetch and try again")
    place = Path(tempfile.mkdtemp(prefix=f"onestep-{os.getpid()}-")) / main.name
    try:
        with hold_lock(main / LOCK):
            _remove_abandoned(main)
            _run(main, "git", *NO_HOOKS, "worktree", "add", "-q", "--detach", str(place), commit)
            _run(main, "git", "worktree", "lock", "--reason", f"{HOST}{socket.gethostname()}", str(place))
            _share_cache(main, place)
        remove_missing(place)
        yield place
    finally:
        git(main, "worktree", "unlock", str(place))
        shutil.rmtree(place.parent, ignore_errors=True)
        with hold_lock(main / LOCK):
            git(main, "worktree", "prune")


def _share_cache(main: Path, place: Path) -> None:
    """Let the worktree use DVC's cache of the main worktree, by a link beside the worktree.

    DVC writes no path into its configuration that is not ASCII; the relative path of the link always is.
    """
    cache = find_cache(main)
    cache.mkdir(parents=True, exist_ok=True)
    (place.parent / CACHE).symlink_to(cache)
    # The text that `dvc cache dir --local` writes; the command takes most of a second. The path is that from the file.
    (place / ".dvc" / "config.local").write_text(f"[cache]\n    dir = ../../{CACHE}\n")


def _remove_abandoned(main: Path) -> None:
    """Remove the worktrees of processes of this host that were killed."""
    for place, owner in (known[:2] for known in _list_temporary(main) if not known.is_foreign):
        if not _is_at_work(place, owner):
            git(main, "worktree", "unlock", str(place))  # git locks a worktree while it checks the files out
            shutil.rmtree(place.parent, ignore_errors=True)
    git(main, "worktree", "prune")


def _is_at_work(place: Path, owner: int) -> bool:
    """Whether the process that made a worktree runs; a process that began later has only the same id."""
    try:
        return psutil.Process(owner).create_time() <= place.parent.stat().st_mtime + CLOCK
    except (psutil.Error, OSError):
        return False


def find_owners(main: Path) -> list[str]:
    """Return words for each running process that works in a temporary worktree of a project, with its id.

    Whether a process of another host still runs cannot be seen, so that it counts, with the command for its end.
    """
    owners = set()
    for known in _list_temporary(main):
        if known.is_foreign:
            command = f"git worktree unlock {shlex.quote(str(known.place))}"
            owners.add(f"pid {known.owner} on host {known.host}; if that has ended, {command}")
        elif _is_at_work(known.place, known.owner):
            owners.add(f"pid {known.owner}")
    return sorted(owners)


def _list_temporary(main: Path) -> Iterator[Temporary]:
    """Yield each temporary worktree."""
    for record in (git(main, "worktree", "list", "--porcelain") or "").split("\n\n"):
        fields = {key: value for key, _, value in (line.partition(" ") for line in record.splitlines())}
        place, reason = Path(fields.get("worktree", "")), fields.get("locked", "")
        if owner := OWNER.match(place.parent.name):
            yield Temporary(place, int(owner[1]), reason.removeprefix(HOST) if reason.startswith(HOST) else None)


def _dvc(cwd: Path, *words: str) -> str:
    return _run(cwd, sys.executable, "-m", "dvc", *words)


def _run(cwd: Path, *words: str) -> str:
    """Run a command and return its output. Raises UserError with the end of its error output."""
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        command = " ".join(words).removeprefix(f"{sys.executable} -m ")
        raise UserError(f"`{command}` failed in {cwd}: {_reason(done.stderr) or f'exit code {done.returncode}'}")
    return done.stdout


def last_commit(root: Path) -> str:
    """Return the sha of the last commit, from which experiments start. Raises UserError if there is none."""
    check_owner(root)
    sha = git(root, "rev-parse", "HEAD")
    if sha is None:
        raise UserError("an experiment starts from the last commit, and this folder has none: git init, then commit")
    return sha


def find_uncommitted(root: Path) -> str | None:
    """Return a file that has changed since the last commit, apart from the files that every run writes."""
    outputs = (":(exclude)dvc.lock", ":(exclude)reports")
    words = ["git", "--no-optional-locks", "status", "--porcelain=v2", "-z", "--untracked-files=no", "--", "."]
    done = subprocess.run([*words, *outputs], cwd=root, capture_output=True, check=False)
    path, entries = None, iter(done.stdout.decode(errors="backslashreplace").split("\0")[:-1])
    for entry in entries:
        # The fields before the path have no spaces; a rename has one more, an unmerged file two more.
        path = entry.split(" ", {"1": 8, "2": 9, "u": 10}[entry[0]])[-1]
        if entry[0] == "2":
            next(entries)  # the former path
    return path


def _reason(text: str) -> str:
    """Return the lines of an error output that state an error, or else all of it, on one line."""
    lines = [line for line in text.splitlines() if re.match(r"error|fatal", line, re.IGNORECASE)]
    return " ".join(" ".join(lines or [text]).split())[-300:]


def check_committed(root: Path, remedy: str = "") -> str:
    """Return the sha of the last commit, and make sure that experiments can be committed.

    remedy: a further one for uncommitted changes. Raises UserError if there is no commit, or if the workspace has
    changed since.
    """
    last_commit(root)
    if file := find_uncommitted(root):
        applied = ", such as those of `dvc exp apply`" if file == "params.yaml" else ""
        raise UserError(
            f"{file} has uncommitted changes{applied}, and experiments start from the last commit: commit them "
            f"(git commit -am MESSAGE), or take them back (git restore {shlex.quote(file)}){remedy}"
        )
    return leave_out_changes(root)


def check_same_commit(root: Path, commit: str, params: Mapping[str, Any]) -> None:
    """Make sure that experiments of a commit can be saved, and that they run with params.yaml as it was read.

    Raises UserError if the workspace has uncommitted changes, or if it has another commit by now.
    """
    text = None if check_committed(root) != commit else show_file(root, commit, "params.yaml")
    if text is None or YAML(typ="safe").load(text) != params:
        raise UserError(f"{root} has another commit or params.yaml than when this command began; run it again")


def leave_out_changes(root: Path) -> str:
    """Return the sha of the last commit, whatever has changed since, and make sure that experiments can be committed.

    Raises UserError if there is no commit.
    """
    sha = last_commit(root)
    if note := ensure_identity(root):
        print(f"note: {note}", file=sys.stderr, flush=True)
    return sha


def save_experiment(place: Path, name: str, target: str | None = None) -> None:
    """Save the worktree as a DVC experiment of its commit, with the new files in reports/.

    target: the last stage that has run; DVC saves no stage whose outputs are missing. None stands for all stages.
    """
    from flows.workspace.graph import read_graph, select_stages  # it imports DVC, which takes a second

    stages = select_stages(read_graph(place), target) if target else []
    new = (git(place, "ls-files", "--others", "--exclude-standard", "reports") or "").splitlines()
    with hold_lock(main_worktree(place) / LOCK):
        _dvc(place, "exp", "save", "-f", "-n", name, *(word for file in new for word in ("-I", file)), *stages)
