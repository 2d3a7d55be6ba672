"""The folder of a run that is followed: the live logs of its stages, and how much of them MLflow holds.

It lies in runs/live of the main worktree, under a name made of what is run: a run that was killed and starts again
finds the folder, and continues its MLflow run as the stages continue from their checkpoints.
"""

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from dmd.errors import UserError
from dmd.progress import ENDING, PICTURES
from dmd.storage.files import write_text
from dmd.storage.worktree import main_worktree
from flows.live.feed import Feed
from flows.registry.store import shown_uri
from flows.runtime.file_lock import hold_lock
from flows.runtime.git import git
from flows.runtime.names import make_identifier

FOLDER = Path("runs") / "live"
STATE, LOCK = "state.json", "lock"
FINISHED = "FINISHED"  # status of a run that has its result; no later attempt may continue it
BUSY = "another process follows this run"


@dataclass
class State:
    """The part of a run that MLflow holds, written after each delivery."""

    store: str  # address of the store, without a password
    run_id: str = ""  # "": MLflow has no run yet
    status: str = "RUNNING"  # RUNNING until the flow ends, then how it ended: FINISHED, FAILED or KILLED
    is_settled: bool = False  # whether MLflow holds all rows and the status
    positions: dict[str, int] = field(default_factory=dict)  # of the logs, by their path in the folder
    pictures: list[str] = field(default_factory=list)


class Spool:
    """The folder of one run, locked by this process, with the state of one place that the run is sent to."""

    def __init__(self, folder: Path, store: str, state: str = STATE) -> None:
        """state: name of the file that says how much `store` holds; each place that shows the run has its own."""
        self.folder, self.file, self.lock = folder, folder / state, threading.Lock()
        self.state = _read_state(self.file) or State(store)
        if self.state.store != store:  # the run of an earlier attempt is in another store
            self.state = State(store)
        self.feeds: dict[str, Feed] = {}

    def find_feeds(self) -> list[Feed]:
        """The logs of all trainings so far, in the order of their names."""
        for file in sorted(self.folder.glob(f"*/*{ENDING}")):
            name = file.relative_to(self.folder).as_posix()
            if name not in self.feeds:
                self.feeds[name] = Feed.resume(file, self.state.positions.get(name, 0))
        return list(self.feeds.values())

    def find_pictures(self) -> list[Path]:
        """The pictures that are not sent, in the order of their names."""
        return [file for file in sorted(self._list_pictures()) if self.name(file) not in self.state.pictures]

    def last_picture(self) -> Path | None:
        """The picture that was made last; None if there is none."""
        return max(self._list_pictures(), key=lambda file: (file.stat().st_mtime_ns, file.name), default=None)

    def _list_pictures(self) -> Iterator[Path]:
        return self.folder.glob(f"*/{PICTURES}/[!.]*.png")

    def name(self, file: Path) -> str:
        """The path of a file in the folder."""
        return file.relative_to(self.folder).as_posix()

    def save(self) -> None:
        """Write the state to the disk; the thread that sends and the one that ends the run may do so at once."""
        with self.lock:
            self.state.positions |= {name: feed.position for name, feed in list(self.feeds.items())}
            write_text(self.file, json.dumps(asdict(self.state)))

    def begin_again(self) -> None:
        """Send all of the folder to a new run."""
        self.state, self.feeds = State(self.state.store, status=self.state.status), {}

    def remove(self) -> None:
        """Remove the folder: MLflow holds all of it."""
        shutil.rmtree(self.folder, ignore_errors=True)


@contextlib.contextmanager
def open_spool(root: Path, key: str) -> Iterator[Spool]:
    """Hold the folder of a run of these parameters and this code: that of an earlier attempt if it did not finish.

    key: name of the run (`Job.key`). If another process runs the same, this one gets a folder of its own. Raises
    UserError if the folder cannot be written.
    """
    folder, store = main_worktree(root) / FOLDER / f"{make_identifier(key)}-{_digest(root)}", shown_uri(root)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(hold_lock(folder / LOCK, BUSY))
            is_free = Spool(folder, store).state.status != FINISHED
        except UserError:  # another process runs the same
            is_free = False
        if not is_free:
            folder = folder.with_name(f"{folder.name}-{os.getpid()}")
            stack.enter_context(hold_lock(folder / LOCK))
        spool = Spool(folder, store)
        spool.state.status, spool.state.is_settled = "RUNNING", False
        spool.save()
        yield spool


def find_abandoned(root: Path) -> Iterator[Spool]:
    """Yield, one after the other, the folders of runs whose process ended before MLflow held all; each is locked."""
    store = shown_uri(root)
    for folder in list_unsettled(root):
        with contextlib.suppress(UserError), hold_lock(folder / LOCK, BUSY):
            state = _read_state(folder / STATE)
            if state and state.store == store and not state.is_settled:
                yield Spool(folder, store)


def list_unsettled(root: Path) -> list[Path]:
    """The folders of runs that MLflow does not hold all of, whether or not their process still runs."""
    folders = sorted(file.parent for file in (main_worktree(root) / FOLDER).glob(f"*/{STATE}"))
    return [folder for folder in folders if (state := _read_state(folder / STATE)) and not state.is_settled]


def _read_state(file: Path) -> State | None:
    try:
        return State(**json.loads(file.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _digest(root: Path) -> str:
    """Hash parameters, commit and changes of the code, whose lines may be in any encoding."""
    words = ["git", "--no-optional-locks", "diff", "HEAD", "--", ".", ":(exclude)dvc.lock", ":(exclude)reports"]
    changes = b""
    with contextlib.suppress(FileNotFoundError):  # git is not installed
        changes = subprocess.run(words, cwd=root, capture_output=True, check=False).stdout.strip()
    parts = ((root / "params.yaml").read_bytes(), (git(root, "rev-parse", "HEAD") or "").encode(), changes)
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:12]
