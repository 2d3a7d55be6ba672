"""Bounds on the CPU time, time and memory of one input, and the judgement of its outcome."""

import resource
import signal
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from dmd.errors import is_control

CPU_SECONDS = 20  # from the start of an input to its refusal or its result
GIB = 2**30
MEMORY = GIB  # bytes above what a good input takes
WALL_SECONDS = 600  # ends an input that waits for ever; a busy machine may need many times CPU_SECONDS
MAX_LINE = 4000  # characters of a line of a refusal; a list of all keys that are allowed takes two thousand

REFUSED, VALID, FAULT = "refused", "valid", "fault"


class DamagedResultError(Exception):
    """An input was accepted, and its result is not valid."""


@dataclass
class Outcome:
    """The outcome of one damaged input."""

    kind: str
    number: int  # with the seed and the kind, it gives the input
    injected: str
    outcome: str  # REFUSED, VALID or FAULT
    message: str  # the refusal, the valid result or the fault
    cpu: float = 0.0  # seconds
    memory: float = 0.0  # GiB above that of a good input

    def as_row(self) -> dict[str, str | int | float]:
        """The row of the table."""
        return {**asdict(self), "cpu": round(self.cpu, 2), "memory": round(self.memory, 3)}


def arm(good: int) -> None:
    """Bound the next input: beyond its time the process dies, and beyond its memory an allocation fails.

    good: the most bytes that the process held for a good input
    """
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime) + CPU_SECONDS + 1
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.RLIM_INFINITY))
    signal.alarm(WALL_SECONDS)
    forget_peak()
    data = _status("VmData") + MEMORY + max(0, good - _status("VmRSS"))
    resource.setrlimit(resource.RLIMIT_DATA, (data, resource.RLIM_INFINITY))


def disarm() -> None:
    """Remove the bounds."""
    signal.alarm(0)
    for which in (resource.RLIMIT_CPU, resource.RLIMIT_DATA):
        resource.setrlimit(which, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def forget_peak() -> None:
    """Let the kernel measure the peak of this process's memory from now on."""
    Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    """The most bytes that this process has held since `forget_peak`."""
    return _status("VmHWM")


def cpu_seconds() -> float:
    """CPU seconds of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _status(name: str) -> int:
    """A size in /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def judge(use: Callable[[], str], refusals: tuple[type[Exception], ...]) -> tuple[str, str]:
    """Call what reads an input. Returns the outcome, and the refusal, the valid result or the fault in words.

    refusals: the errors that the command prints as one line. Anything else that is raised would be a traceback.
    """
    try:
        return VALID, use()
    except refusals as e:
        fault = find_unclear(str(e))
        return (FAULT, f"an unclear refusal ({fault}): {e}") if fault else (REFUSED, str(e))
    except DamagedResultError as e:
        return FAULT, f"a damaged result: {e}"
    except BaseException as e:
        return FAULT, f"{type(e).__name__}: {' '.join(str(e).split())[:500]} at {_place(e)}"


def find_unclear(message: str) -> str:
    """Say why a refusal is no clear line, or lines, one for each mistake; "" if it is."""
    lines = message.splitlines()
    if not message.strip() or not all(line.strip() for line in lines):
        return "an empty line"
    if any(is_control(c) for line in lines for c in line):
        return "control characters"
    if "Traceback (most recent call last)" in message:
        return "a traceback in it"
    longest = max(map(len, lines))
    return f"a line of {longest} characters" if longest > MAX_LINE else ""


def _place(error: BaseException) -> str:
    """The innermost place in this project at which an error was raised."""
    places, trace = ["?"], error.__traceback__
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if ".venv" not in file and "site-packages" not in file and "/benchmarks/" not in file and file.startswith("/"):
            places.append(f"{Path(file).parent.name}/{Path(file).name}:{trace.tb_lineno}")
        trace = trace.tb_next
    return places[-1]
