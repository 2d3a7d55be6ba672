"""Runs a stage as a command: reads its paths, validates params.yaml, sets up torch and reports errors in one line."""

import argparse
import contextlib
import ctypes
import errno
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import torch
from safetensors import SafetensorError

from dmd.config import Group, Params, RuntimeConfig
from dmd.config_paths import load_run_params
from dmd.debug import CommandParser, print_traceback
from dmd.device import choose_device
from dmd.errors import DataError, UserError, printable
from dmd.launch import LAUNCHED, start_processes
from dmd.progress import clock
from dmd.redaction import redact
from dmd.signals import RETRY, Stopped, raise_on_stop
from dmd.storage.recorded import check_recorded
from dmd.storage.scratch import SCRATCH

FREE_MIB = 200  # more than the largest stage of the default run writes
CONTINUE = "run again to resume from the last checkpoint"

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # of glibc's malloc.h

Stage = Callable[[argparse.Namespace, Params, torch.device], str]


def run(name: str, stage: Stage, inputs: tuple[str, ...], outs: tuple[str, ...], shared: bool = False) -> None:
    """Run a stage as a command. `stage` returns a line that describes its result; an error is one line, exit code 1.

    shared: whether runtime.processes share its work (dmd/training/shared_work.py).

    The exit code is 130 after SIGINT, and RETRY after SIGTERM or SIGUSR1.
    """
    parser = CommandParser(prog=f"python -m stages.{name}")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="the parameters (default params.yaml)")
    for path in (*inputs, *outs):
        parser.add_argument(f"--{path.replace('_', '-')}", type=Path, required=True)
    args = parser.parse_args()
    start = time.monotonic()
    raise_on_stop()
    _keep_scratch()
    try:
        params = load_run_params(args.params, Path())
        _check_paths(args, inputs, outs)
        if shared and params.runtime.processes > 1:
            start_processes("torchrun", params.runtime.processes, {"standalone": True}, f"stages.{name}")
        summary = stage(args, params, prepare_torch(params.runtime, getattr(params, name, None)))
    except (UserError, FloatingPointError) as e:
        fail(name, str(e))
    except (OSError, SafetensorError) as e:
        fail(name, _describe_file_error(e))
    except torch.OutOfMemoryError as e:
        fail(name, f"out of memory: {str(e).splitlines()[0]}; lower the batch size of this stage in {args.params}")
    except MemoryError:
        fail(name, f"out of memory; lower the sizes of this stage in {args.params}")
    except KeyboardInterrupt:
        fail(name, f"interrupted; {CONTINUE}", code=130)
    except Stopped as e:
        fail(name, f"stopped by {e}; {CONTINUE}", code=RETRY)
    print(f"{name}: {printable(summary)} ({clock(time.monotonic() - start)})", file=sys.stderr, flush=True)


def _keep_scratch() -> None:
    """Place scratch folders in the main worktree when DVC runs the stage in a copy that it deletes afterwards.

    `dvc exp run --temp` and `--queue` run stages in ROOT/.dvc/tmp/exps, which is a repository of its own.
    """
    parts = Path.cwd().parts
    if ".dvc" in parts and not os.environ.get(SCRATCH):
        os.environ[SCRATCH] = str(Path(*parts[: parts.index(".dvc")]) / "runs")


def _describe_file_error(e: Exception) -> str:
    """Return one line for a file error. safetensors reports a full disk with the error number in the message."""
    if getattr(e, "errno", None) == errno.ENOSPC or f"os error {errno.ENOSPC}" in str(e):
        where = getattr(e, "filename", None) or Path.cwd()
        return f"the disk is full: {where} (nothing was written; make room and run again)"
    return " ".join(str(e).split())


def fail(name: str, message: str, code: int = 1) -> NoReturn:
    """Print one line for each mistake and end the process."""
    print_traceback()
    for line in printable(redact(message)).splitlines():
        print(f"error: {name}: {line}", file=sys.stderr, flush=True)
    sys.exit(code)


def keep_freed_memory() -> None:
    """Keep glibc from returning freed memory to the system; without glibc, do nothing.

    Each pass frees its activations and the next pass allocates them again. The system clears pages that glibc returns,
    which takes 10 to 20 % of a small network's time.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(M_TOP_PAD, 64 * 2**20)


def prepare_torch(cfg: RuntimeConfig, group: Group | None) -> torch.device:
    """Set threads and determinism from params.yaml, whatever the caller's environment; return the device.

    group: that of the stage, if it has one; it may have a number of threads of its own.
    """
    keep_freed_memory()
    torch.set_num_threads(cfg.threads_of(group))
    torch.set_deterministic_debug_mode(
        "warn"
    )  # use_deterministic_algorithms would import the compiler, for two seconds
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # it costs time, and no code reads uninitialized memory
    return choose_device(cfg.device)


def _check_paths(args: argparse.Namespace, inputs: tuple[str, ...], outs: tuple[str, ...]) -> None:
    """Raise DataError for a missing or damaged input, and OSError if the disk has too little space for the outputs."""
    for name in inputs:
        if not getattr(args, name).exists():
            raise DataError(f"--{name}: {getattr(args, name)} does not exist; run the stage that makes it (dvc repro)")
    if LAUNCHED not in os.environ:  # the process that started this one has checked them
        check_recorded([getattr(args, name) for name in inputs], Path())
    for name in outs:
        parent = next(p for p in getattr(args, name).absolute().parents if p.exists())
        if shutil.disk_usage(parent).free < FREE_MIB * 2**20:
            raise OSError(errno.ENOSPC, f"less than {FREE_MIB} MiB free", str(parent))
