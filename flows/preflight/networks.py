"""Checks that import torch, and most of them diffusers, which takes seconds.

`python -m flows.preflight.networks` reads a run from its input and prints the mistakes. A command starts this process
first, so that it works beside the command's own checks and beside the start of a Prefect server.
"""

import atexit
import json
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator
from dataclasses import asdict

from dmd.config import Params
from dmd.errors import UserError
from dmd.launch import processes_of_a_machine
from flows.preflight.data import check_data
from flows.preflight.room import check_room
from flows.preflight.run import Check, Mistakes, Run, find_mistakes
from flows.preflight.teachers import check_guidance, check_teachers
from flows.runtime.environment import child_environment

SHARED = frozenset({"encode", "baseline", "pairs", "evaluate"})  # stages that runtime.processes share

# By the run: a command and its flow ask for the same.
_started: dict[str, "subprocess.Popen[str]"] = {}
_found: dict[str, Mistakes] = {}


def check_methods(run: Run) -> Iterator[str]:
    """Check that the method of every variant accepts its parameters."""
    if "train" in run.stages:
        from dmd.distillation.methods import check_method

        for params in run.params:
            check_method(params)
    yield from ()


def check_device(run: Run) -> Iterator[str]:
    """Check that the device of every variant exists, with a GPU for each process of this machine."""
    from dmd.device import choose_device

    mistakes: list[str] = []
    for params in run.params:
        if choose_device(params.runtime.device).type == "cuda":
            mistakes += _find_missing_gpus(params, run.stages)
    yield from dict.fromkeys(mistakes)


def _find_missing_gpus(params: Params, stages: Collection[str]) -> Iterator[str]:
    """Yield a line for each kind of process of which there are more than GPUs."""
    import torch

    train, gpus = params.train, torch.cuda.device_count()
    needed = {"runtime.processes": params.runtime.processes} if SHARED.intersection(stages) else {}
    if "train" in stages:
        needed["train.processes"] = processes_of_a_machine(train.launcher, train.processes, train.launcher_options)
    for key, count in needed.items():
        if count > gpus:
            yield (
                f"{key}: {count} processes of this machine need a GPU each, and it has {gpus}; set {key} to {gpus}, "
                "or CUDA_VISIBLE_DEVICES to more GPUs"
            )


CHECKS: tuple[Check, ...] = (check_data, check_methods, check_device, check_room, check_teachers, check_guidance)


def begin_checks(run: Run) -> None:
    """Start the process for a run; a second call for an equal run does nothing."""
    text = run.to_json()
    if text in _found or text in _started:
        return
    with tempfile.TemporaryFile("w+") as given:
        given.write(text)
        given.seek(0)
        _started[text] = process = subprocess.Popen(
            [sys.executable, "-m", "flows.preflight.networks"],
            env=child_environment(),
            stdin=given,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # the command itself reports an interrupt
        )
    atexit.register(process.kill)


def finish_checks(run: Run) -> Mistakes:
    """Wait for what the process finds. Raises UserError if it fails otherwise than by a mistake of the user."""
    begin_checks(run)
    if (process := _started.pop(text := run.to_json(), None)) is not None:
        out, _ = process.communicate()
        if process.returncode:
            raise UserError(f"the checks of networks ended with exit code {process.returncode}; run again")
        _found[text] = Mistakes(**json.loads(out.splitlines()[-1]))
    return _found[text]


if __name__ == "__main__":
    print(json.dumps(asdict(find_mistakes(CHECKS, Run.from_json(sys.stdin.read())))), flush=True)
