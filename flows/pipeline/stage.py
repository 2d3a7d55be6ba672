"""One DVC stage as a Prefect task. DVC decides whether anything runs, and is the only cache."""

import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prefect import Task, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.runtime import task_run
from prefect.states import Completed, Failed

from dmd.errors import UserError
from flows.pipeline.artifacts import ProgressArtifact
from flows.pipeline.graph import StageSpec
from flows.runtime.process import Stopped, TookTooLong, run_streaming

RETRY_DELAY = 5  # seconds
BUSY_DELAY = 5.0  # seconds between two looks at a stage whose files another DVC process holds
BUSY_PATIENCE = 3600.0  # seconds, for a stage that has no time-out of its own

Log = Callable[[str], None]

# What DVC says and advises at each stage; in a flow of seven stages it drowns the rest.
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


class StageError(UserError):
    """A stage has failed. `explained`: it said why itself, so a second attempt would fail alike."""

    def __init__(self, stage: str, reason: str, explained: bool = False, timed_out: bool = False) -> None:
        super().__init__(f"stage {stage}: {reason}")
        self.explained, self.timed_out = explained, timed_out


def reproduce(spec: StageSpec, root: Path, log: Log, force: bool = False) -> str:
    """Let DVC bring one stage up to date: Ran, Restored (from its cache) or Unchanged. Waits while DVC is busy."""
    deadline = time.monotonic() + (spec.timeout or BUSY_PATIENCE)
    while True:
        lines, code = _repro(spec, root, log, force)
        if code == 0:
            return _outcome(spec.name, lines)
        busy = next((line for line in lines if " is busy, it is being blocked by" in line), None)
        if busy is None or time.monotonic() > deadline:
            raise _failure(spec.name, lines, code)
        log("waiting: another DVC process works on the files of this stage")
        time.sleep(BUSY_DELAY)


def _repro(spec: StageSpec, root: Path, log: Log, force: bool) -> tuple[list[str], int]:
    lines: list[str] = []

    def hear(line: str) -> None:
        lines.append(line)
        if line and not line.startswith((*NOISE, f"error: {spec.name}: ", "ERROR: failed to reproduce")):
            log(line)

    again = ["--force", "--no-run-cache"] if force else []
    argv = [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "--single-item", *again, spec.name]
    try:
        return lines, run_streaming(argv, root, hear, spec.timeout)
    except Stopped as e:
        raise StageError(spec.name, str(e), explained=True) from None
    except TookTooLong as e:
        raise StageError(spec.name, str(e), timed_out=True) from None


def _outcome(name: str, lines: list[str]) -> str:
    if f"Running stage '{name}':" in lines:
        return "Ran"
    return "Restored" if any(line.startswith(f"Stage '{name}' is cached") for line in lines) else "Unchanged"


def _failure(name: str, lines: list[str], code: int) -> StageError:
    """The stage's own words; failing those, what DVC says; failing those, the last line."""
    prefix = f"error: {name}: "
    if own := [line.removeprefix(prefix) for line in lines if line.startswith(prefix)]:
        return StageError(name, "; ".join(own), explained=True)
    said = next((line for line in reversed(lines) if line.startswith("ERROR: ")), None)
    if said is None:
        last = next((line for line in reversed(lines) if line.strip()), "no output")
        return StageError(name, f"DVC ended with exit code {code}: {last}")
    reason = re.sub(r"^ERROR: (failed to reproduce '[^']*': )?", "", said)
    killed = re.search(r"exited with (-\d+|1[3-6]\d)$", reason)
    return StageError(name, f"{reason}{_signal_name(int(killed[1])) if killed else ''}")


def _signal_name(code: int) -> str:
    """A negative exit code is Python's way to say that a signal ended a process, 128 + n a shell's."""
    number = -code if code < 0 else code - 128
    if number not in [s.value for s in signal.Signals]:
        return ""
    hint = "; is there enough memory?" if number == signal.SIGKILL else ""
    return f" (ended by {signal.Signals(number).name}{hint})"


def _may_retry(_task: Task[Any, Any], _run: TaskRun, state: State[Any]) -> bool:
    return not (isinstance(state.data, StageError) and state.data.explained)


@task(cache_policy=NO_CACHE, persist_result=False, retry_delay_seconds=RETRY_DELAY, retry_condition_fn=_may_retry)
def run_stage(spec: StageSpec, root: Path, force: bool = False) -> State[Any]:
    """The state's name is the outcome. A failure is returned, not raised: Prefect would log a traceback for it."""
    log = ProgressArtifact(spec.name, get_run_logger().info)
    start = time.monotonic()
    try:
        outcome = reproduce(spec, root, log, force)
    except StageError as e:
        if not e.explained and task_run.run_count <= spec.retries:
            log(f"{e}; trying again in {RETRY_DELAY} s")
        return Failed(name="TimedOut" if e.timed_out else "Failed", message=str(e), data=e)
    seconds = time.monotonic() - start
    log(f"{outcome.lower()} in {seconds:.0f} s" if outcome == "Ran" else outcome.lower())
    return Completed(name=outcome, message=spec.desc or spec.name, data=outcome)


def stage_task(spec: StageSpec) -> Task[[StageSpec, Path, bool], State[Any]]:
    """`run_stage` under the stage's name, with the settings that dvc.yaml gives it."""
    return run_stage.with_options(
        name=spec.name, task_run_name=spec.name, description=spec.desc, retries=spec.retries, tags=spec.tags
    )
