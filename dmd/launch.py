"""Starts the processes of stage `train` by accelerate or torchrun, as an argument list: no shell reads a parameter."""

import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Literal

Launcher = Literal["python", "accelerate", "torchrun"]
Option = bool | int | str

MODULES = {"accelerate": "accelerate.commands.launch", "torchrun": "torch.distributed.run"}
PROCESSES = {"accelerate": "--num_processes", "torchrun": "--nproc_per_node"}
# Options that say where processes run. Others, such as --no_python and --config_file, could start another program, and
# so could an address: processes unpickle what the main one sends. It comes from ADDRESS in the environment instead.
OPTIONS: dict[str, frozenset[str]] = {
    "python": frozenset(),
    "accelerate": frozenset({
        "num_machines", "machine_rank", "main_process_port", "same_network", "gpu_ids", "num_cpu_threads_per_process",
        "enable_cpu_affinity", "max_restarts", "monitor_interval", "cpu",
    }),
    "torchrun": frozenset({
        "nnodes", "node_rank", "master_port", "standalone", "max_restarts", "monitor_interval",
    }),
}  # fmt: skip
ADDRESS = "MASTER_ADDR"  # environment variable with the host of the main process, if there are several machines
ADDRESS_OPTIONS = {"accelerate": "--main_process_ip", "torchrun": "--master_addr"}
VALUE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:,-]{0,199}")  # numbers, lists of devices
LAUNCHED = "ONESTEP_LAUNCHED"  # environment variable of the processes that `start_processes` starts


def find_mistake(launcher: Launcher, processes: int, options: Mapping[str, Option]) -> str | None:
    """Return one line, beginning with the key below `train`, about options that cannot be used; None if all can."""
    if launcher == "python" and processes > 1:
        return f"processes: {processes} processes need launcher: accelerate or torchrun"
    for name, value in options.items():
        if name not in OPTIONS[launcher]:
            allowed = ", ".join(sorted(OPTIONS[launcher])) or "none"
            return f"launcher_options: {name[:100]!r} is no option for launcher: {launcher}; allowed: {allowed}"
        if isinstance(value, str) and not VALUE.fullmatch(value):
            return (
                f"launcher_options.{name}: {value[:100]!r} is not allowed; use letters, digits and _ . : , - only, "
                "beginning with a letter or digit"
            )
    return None


def processes_of_a_machine(launcher: Launcher, processes: int, options: Mapping[str, Option]) -> int:
    """Return how many processes the launcher starts on each machine; torchrun's number is that of one machine."""
    machines = options.get("num_machines", 1) if launcher == "accelerate" else 1
    return -(-processes // max(1, machines)) if isinstance(machines, int) else processes


def launch_command(
    launcher: Launcher, processes: int, options: Mapping[str, Option], module: str, arguments: Sequence[str]
) -> list[str] | None:
    """Return the argument list that runs `python -m module arguments` in several processes; None for one process.

    An option that is true becomes a flag, and one that is false is left out.
    """
    if launcher == "python":
        return None
    flags = [f"--{name}" for name, value in options.items() if value is True]
    values = [f"--{name}={value}" for name, value in options.items() if not isinstance(value, bool)]
    command = [sys.executable, "-m", MODULES[launcher], f"{PROCESSES[launcher]}={processes}"]
    address = [f"{ADDRESS_OPTIONS[launcher]}={os.environ[ADDRESS]}"] if os.environ.get(ADDRESS) else []
    return [*command, *flags, *values, *address, "-m", module, *arguments]


def start_processes(launcher: Launcher, processes: int, options: Mapping[str, Option], module: str) -> None:
    """Replace this process by the launcher, which runs the same command in each of its processes.

    Does nothing for launcher `python`, and in a process that a launcher has started.
    """
    command = launch_command(launcher, processes, options, module, sys.argv[1:])
    if command is None or LAUNCHED in os.environ or "LOCAL_RANK" in os.environ:
        return
    os.environ[LAUNCHED] = "1"
    os.execv(command[0], command)
