"""DVC experiments of an ablation's members: run one in a temporary worktree, read its files from git."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from dmd.errors import UserError
from dmd.progress import LIVE
from evaluation.metrics.files import parse_metrics
from evaluation.metrics.schema import Metrics
from flows.ablation.plan import Member
from flows.pipeline.changes import change_file, find_difference
from flows.pipeline.worktrees import save_experiment, temporary_worktree
from flows.registry.result import DETAILS, METRICS, QUALITY, SAMPLES, TIMING
from flows.runtime.process import ENDING, STOP, CommandStopped, run_streaming

FIGURES = (METRICS, DETAILS, TIMING, SAMPLES, QUALITY)  # what stage evaluate writes for git

STAGE_ERROR = "error: "  # start of a line in which a stage reports an error
ATTEMPTS = 2  # of the pipeline, if a stage ends without saying why: something has killed it
DVC_STAGE = "DVC_STAGE"  # variable in which DVC names the stage to the stage's command

Log = Callable[[str], None]
Watch = Callable[[Path], AbstractContextManager[Path | None]]


@contextmanager
def unwatched(_place: Path) -> Iterator[None]:
    """Watch nothing."""
    yield


class MemberError(UserError):
    """A member has failed; the message is the reason."""


def read(root: Path, member: Member, path: Path) -> bytes | None:
    """Content of a file in the member's experiment; None if there is no such file."""
    revision = f"refs/exps/{member.commit[:2]}/{member.commit[2:]}/{member.experiment}"
    done = subprocess.run(["git", "show", f"{revision}:{path.as_posix()}"], cwd=root, capture_output=True, check=False)
    return done.stdout if done.returncode == 0 else None


def exists(root: Path, member: Member, file: Path = METRICS) -> bool:
    """Whether the member's commit has the member's experiment, with that file and with the changes asked for."""
    return read(root, member, file) is not None and _find_difference(root, member) is None


def load_metrics(root: Path, member: Member) -> Metrics | None:
    """Measures of the experiment; None if it does not exist. Raises EvaluatorError if they cannot be read."""
    metrics = read(root, member, METRICS) if exists(root, member) else None
    if metrics is None:
        return None
    return parse_metrics(metrics, read(root, member, DETAILS), f"{METRICS} of {member.experiment}")


def run(root: Path, member: Member, log: Log, target: str | None = None, watch: Watch = unwatched) -> None:
    """Run the pipeline in a worktree of the member's commit with its changes, and save it as an experiment.

    log: called with each line of DVC's output. target: the last stage to run; figures are then left out of the
    experiment, since they are those of the commit. watch: called with the worktree, and entered until the experiment is
    saved; its value is the folder for the live logs of the stages. Raises UserError if git or DVC fails: MemberError if
    a stage fails, or if the experiment holds another value than a change asks for. Raises CommandStopped if the flow
    ends.
    """
    with temporary_worktree(root, member.commit) as place:
        change_file(member.changes, place / "params.yaml")
        with watch(place) as live:
            _reproduce(place, target, live, log)
            if target:
                for path in FIGURES:
                    (place / path).unlink(missing_ok=True)
            save_experiment(place, member.experiment, target)
            if difference := _find_difference(root, member):
                raise MemberError(f"{member.experiment}: params.yaml: {difference}")


def _reproduce(place: Path, target: str | None, live: Path | None, log: Log) -> None:
    """Run the stages up to `target`; live: folder for their live logs. Raises MemberError, or CommandStopped."""
    env = {LIVE: f"{live}/${DVC_STAGE}"} if live else {}
    argv = [sys.executable, "-m", "dvc", "repro", *([target] if target else [])]
    for left in reversed(range(ATTEMPTS)):
        lines = list[str]()

        def handle(line: str, to: list[str] = lines) -> None:
            to.append(line)
            log(line)

        if not (code := run_streaming(argv, place, handle, env=env)):
            return
        if STOP.is_set():  # a scheduler has sent its signal to the processes of the stages too
            raise CommandStopped(ENDING)
        if _is_explained(lines) or not left:
            raise MemberError(_reason(lines, code))
        log(f"{_reason(lines, code)}; trying again")


def _find_difference(root: Path, member: Member) -> str | None:
    """Return the first change that the experiment was not run with; None if it was run with all."""
    return find_difference(member.changes, read(root, member, Path("params.yaml")) or b"")


def _is_explained(lines: list[str]) -> bool:
    """Whether a stage has reported an error, so that a second attempt would fail in the same way."""
    return any(line.startswith(STAGE_ERROR) for line in lines)


def _reason(lines: list[str], code: int) -> str:
    """The stage's error lines, else DVC's error lines, else the last line of output."""
    for prefix in (STAGE_ERROR, "ERROR: "):
        if errors := [line.removeprefix(prefix) for line in lines if line.startswith(prefix)]:
            return "; ".join(errors)
    return next((line for line in reversed(lines) if line.strip()), f"DVC ended with exit code {code}")
