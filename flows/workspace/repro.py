"""`dvc repro` of one stage in its own process. DVC decides whether the command runs, and is the only cache."""

import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from dmd.errors import UserError
from dmd.progress import LIVE
from flows.runtime.process import ENDING, STOP, CommandStopped, CommandTimeout, run_streaming
from flows.workspace import rwlock
from flows.workspace.graph import DvcBusyError, StageSpec, list_stale

# `--wait-for-lock` waits for the lock of the repository only. For a file that another process reads or writes, DVC
# fails at once (https://github.com/treeverse/dvc/issues/5795), so this module tries again.
BUSY = " is busy, it is being blocked by"
BUSY_DELAY = 5.0  # seconds between two attempts
BUSY_PATIENCE = 3600.0  # seconds, for a stage without a timeout

# Advice that DVC prints for every stage.
NOISE = (
    "Data and pipelines are up to date.",
    "Generating lock file",
    "Updating lock file",
    "To track the changes with git, run:",
    "\tgit add ",
    "To enable auto staging, run:",
    "\tdvc config ",
    "Use `dvc push`",
)

Log = Callable[[str], None]


class StageError(UserError):
    """A failed stage.

    explained: the stage printed the reason itself, so a second attempt would fail in the same way
    timed_out: the stage was ended because it reached its timeout
    """

    def __init__(self, stage: str, reason: str, explained: bool = False, timed_out: bool = False) -> None:
        super().__init__(f"stage {stage}: {reason}")
        self.explained, self.timed_out = explained, timed_out


def reproduce(spec: StageSpec, root: Path, log: Log, force: bool = False, live: Path | None = None) -> str:
    """Bring one stage up to date; return "Ran", "Restored" (from DVC's cache) or "Unchanged".

    live: folder for the live logs of a stage that runs, see dmd/progress.py. Waits while another DVC process uses
    the files of the stage. Raises StageError.
    """
    deadline = time.monotonic() + (spec.timeout or BUSY_PATIENCE)
    while True:
        if note := _repair_rwlock(spec.name, root):
            log(note)
        lines, code = _run_dvc(spec, root, log, force, live)
        if code == 0:
            return _read_outcome(spec.name, lines)
        if not any(BUSY in line for line in lines) or time.monotonic() > deadline:
            raise _explain_failure(spec.name, lines, code)
        log("waiting: another DVC process works on the files of this stage")
        time.sleep(BUSY_DELAY)


def wait_for_stale(root: Path) -> list[str]:
    """Return `list_stale`, after any other DVC process, such as `dvc push` or an editor, has freed its lock.

    Waits as long as a stage without a timeout does, with a note. Raises UserError after that, and if DVC fails.
    """
    deadline, has_note = time.monotonic() + BUSY_PATIENCE, False
    while True:
        try:
            return list_stale(root)
        except DvcBusyError as e:
            if time.monotonic() > deadline:
                raise
            if not has_note:
                print(f"note: waiting: {e}", file=sys.stderr, flush=True)
                has_note = True
        time.sleep(BUSY_DELAY)


def _repair_rwlock(stage: str, root: Path) -> str | None:
    try:
        return rwlock.repair(root)
    except UserError as e:
        raise StageError(stage, str(e)) from e


def _run_dvc(spec: StageSpec, root: Path, log: Log, force: bool, live: Path | None) -> tuple[list[str], int]:
    """Run `dvc repro`; return the lines of its output and its exit code."""
    lines: list[str] = []

    def on_line(line: str) -> None:
        lines.append(line)
        if line and not line.startswith((*NOISE, f"error: {spec.name}: ", "ERROR: failed to reproduce")):
            log(line)

    options = ["--force", "--no-run-cache"] if force else []
    argv = [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "--single-item", *options, spec.name]
    env = {LIVE: str(live / spec.name)} if live else {}
    try:
        code = run_streaming(argv, root, on_line, spec.timeout, env)
        if code and STOP.is_set():  # a scheduler has sent its signal to the processes of the stage too
            raise CommandStopped(ENDING)
        return lines, code
    except CommandStopped as e:
        raise StageError(spec.name, str(e), explained=True) from None
    except CommandTimeout as e:
        raise StageError(spec.name, str(e), timed_out=True) from None


def _read_outcome(name: str, lines: list[str]) -> str:
    if f"Running stage '{name}':" in lines:
        return "Ran"
    return "Restored" if any(line.startswith(f"Stage '{name}' is cached") for line in lines) else "Unchanged"


def _explain_failure(name: str, lines: list[str], code: int) -> StageError:
    """Take the reason from the stage's own error lines, else from DVC's error, else from the last line."""
    prefix = f"error: {name}: "
    if own := [line.removeprefix(prefix) for line in lines if line.startswith(prefix)]:
        return StageError(name, "; ".join(own), explained=True)
    error = next((line for line in reversed(lines) if line.startswith("ERROR: ")), None)
    if error is None:
        last = next((line for line in reversed(lines) if line.strip()), "no output")
        return StageError(name, f"DVC ended with exit code {code}: {last}")
    reason = re.sub(r"^ERROR: (failed to reproduce '[^']*': )?", "", error)
    exit_code = re.search(r"exited with (-\d+|1[3-6]\d)$", reason)
    return StageError(name, f"{reason}{_describe_signal(int(exit_code[1])) if exit_code else ''}")


def _describe_signal(code: int) -> str:
    """Name the signal of an exit code: -n as Python reports it, 128 + n as a shell does; "" for other codes."""
    number = -code if code < 0 else code - 128
    if number not in [s.value for s in signal.Signals]:
        return ""
    hint = "; is there enough memory?" if number == signal.SIGKILL else ""
    return f" (ended by {signal.Signals(number).name}{hint})"
