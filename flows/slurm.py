"""`python -m flows.slurm --time 720 --gpus 8 -- flows.distill --preset cifar10`: run a command as a job of Slurm.

A job that reaches its time limit, or that is preempted, saves a checkpoint, is queued again and continues. The clone
must be on a file system that the nodes share. The job inherits the environment, with the addresses and tokens of a
team's servers.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dmd.debug import CommandParser
from dmd.errors import ConfigError, UserError
from flows.runtime.command import run_command

FOLDER = Path("runs/slurm")  # for the logs, and for the files that submitit keeps of a job
COMMANDS = ("flows.ablate", "flows.distill", "flows.reproduce", "flows.search", "flows.watch")
END_PATIENCE = 60.0  # seconds for a checkpoint; Slurm kills the job SIGNAL_AHEAD seconds after its signal
SIGNAL_AHEAD = 120  # seconds
POLL = 0.5  # seconds
# The signal that Slurm sends to every process of a job; the commands of this project save a checkpoint and end.
SIGNAL = {"SUBMITIT_PREEMPT_SIGNAL": "USR1"}


class Job:
    """A command of the project that a job runs, again each time that it is queued."""

    def __init__(self, argv: list[str]) -> None:
        self.argv = argv
        self.process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> None:
        """Run the command. Raises RuntimeError if it fails, so that Slurm shows the job as failed."""
        self.process = subprocess.Popen([sys.executable, "-m", *self.argv], start_new_session=True)
        # Not wait(): it holds a lock, so `checkpoint`, which interrupts it, would not see that the process has ended.
        while (code := self.process.poll()) is None:
            time.sleep(POLL)
        if code:
            raise RuntimeError(f"{' '.join(self.argv)} ended with exit code {code}")

    def checkpoint(self) -> Any:
        """End the command, which saves its checkpoint, and return the job that continues it.

        submitit calls this when Slurm signals that the job reaches its time limit or is preempted.
        """
        from submitit.helpers import DelayedSubmission  # pyright: ignore[reportMissingImports] # an extra

        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(END_PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()
        return DelayedSubmission(Job(self.argv))


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = CommandParser(prog="python -m flows.slurm", description=__doc__)
    parser.add_argument("--time", type=int, default=720, help="time limit of a job in minutes (default 720)")
    parser.add_argument("--continue", dest="more", type=int, default=20, help="most jobs after the first (default 20)")
    parser.add_argument("--gpus", type=int, default=0, help="GPUs of the node (default 0)")
    parser.add_argument("--cpus", type=int, default=4, help="CPU cores (default 4)")
    parser.add_argument("--memory", type=float, help="memory in GiB (default: the cluster's)")
    parser.add_argument("--partition", help="partition of the cluster")
    parser.add_argument(
        "--option", action="append", default=[], metavar="NAME[=VALUE]", help="another option of sbatch"
    )
    parser.add_argument("command", nargs="+", help=f"after --: one of {', '.join(COMMANDS)}, with its arguments")
    args = parser.parse_args(argv)
    return run_command(lambda: submit(Path.cwd(), args))


def submit(root: Path, args: argparse.Namespace) -> int:
    """Queue the job, and print its number and where its log is. Raises UserError if it cannot be queued."""
    check(args)
    os.environ.update(SIGNAL)  # submitit reads it when it is imported, here and in the job, which inherits it
    import submitit  # pyright: ignore[reportMissingImports] # an extra
    from submitit.core.utils import FailedJobError  # pyright: ignore[reportMissingImports] # an extra

    folder = root / FOLDER
    executor = submitit.AutoExecutor(folder=str(folder / "%j"), cluster="slurm", slurm_max_num_timeout=args.more)
    executor.update_parameters(name=args.command[0].rpartition(".")[2], **read_parameters(args))
    try:
        job = executor.submit(Job(args.command))
    except (FailedJobError, subprocess.CalledProcessError, OSError) as e:
        reason = " ".join(str(e).split()).rpartition("sbatch: error: ")[2]
        raise UserError(
            f"Slurm refuses the job: {reason.removeprefix('Batch job submission failed: ')[:300]}"
        ) from None
    print(f"job {job.job_id}: {' '.join(args.command)}")
    print(f"log {job.paths.stdout}; squeue -j {job.job_id} shows its state, scancel {job.job_id} ends it")
    return 0


def check(args: argparse.Namespace) -> None:
    """Raise ConfigError for a wrong argument, UserError if submitit or Slurm is not installed."""
    if args.command[0] not in COMMANDS:
        raise ConfigError(f"{args.command[0]!r} is no command for a job; use one of {', '.join(COMMANDS)}")
    for name, least in (("time", 1), ("more", 0), ("gpus", 0), ("cpus", 1)):
        if getattr(args, name) < least:
            option = "continue" if name == "more" else name
            raise ConfigError(f"--{option}: {getattr(args, name)} is not allowed; it must be {least} or more")
    if args.memory is not None and not args.memory > 0:
        raise ConfigError(f"--memory: {args.memory:g} is not allowed; it must be above 0")
    if wrong := [option for option in args.option if not option.partition("=")[0] or "\n" in option]:
        raise ConfigError(f"--option: {wrong[0]!r} is no option of sbatch; write NAME=VALUE, or NAME for a flag")
    if find_spec("submitit") is None:
        raise UserError("jobs of Slurm need the package submitit: pip install '.[slurm]'")
    if shutil.which("sbatch") is None:
        raise UserError("sbatch is not on PATH: run this on a machine of the cluster that submits jobs")


def read_parameters(args: argparse.Namespace) -> dict[str, Any]:
    """Return the parameters of submitit's executor; those that the user has not given are left out."""
    parts = (option.partition("=") for option in args.option)
    more = {name: value if equals else True for name, equals, value in parts}  # submitit writes True as a flag
    values = {
        "timeout_min": args.time,
        "cpus_per_task": args.cpus,
        "gpus_per_node": args.gpus or None,
        "mem_gb": args.memory,
        "slurm_partition": args.partition,
        "slurm_additional_parameters": {**more, "chdir": os.fspath(Path.cwd())},
        "slurm_signal_delay_s": SIGNAL_AHEAD,
        "stderr_to_stdout": True,
    }
    return {name: value for name, value in values.items() if value is not None}


if __name__ == "__main__":
    sys.exit(main())
