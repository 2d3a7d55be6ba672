"""`python -m benchmarks.fuzzing.worker KIND SEED NUMBERS OUT`: uses inputs of one kind, each within bounds.

OUT gets a line of JSON before an input and one after it, so that the parent knows at which input this process died.
"""

import contextlib
import io
import json
import random
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.fuzzing.kinds import Kind, load_kind
from benchmarks.fuzzing.limits import (
    CPU_SECONDS,
    FAULT,
    GIB,
    VALID,
    Outcome,
    arm,
    cpu_seconds,
    disarm,
    forget_peak,
    judge,
    peak,
)


def main(name: str, seed: int, numbers: list[int], out: Path) -> None:
    """Use the good input, to measure its memory, then the damaged ones."""
    kind = load_kind(name)
    with tempfile.TemporaryDirectory() as folder, out.open("a") as table:
        good = Path(folder) / "good"
        good.mkdir()
        kind.build(good)
        forget_peak()
        outcome, message = _use(kind, good, Path(folder) / "used")
        if outcome != VALID:
            raise SystemExit(f"{name}: the good input is not accepted: {message}")
        most = peak()
        for number in numbers:
            print(json.dumps({"begins": number}), file=table, flush=True)
            row = use_damaged(kind, name, seed, number, good, Path(folder) / "used", most).as_row()
            print(json.dumps(row), file=table, flush=True)


def use_damaged(kind: Kind, name: str, seed: int, number: int, good: Path, place: Path, most: int) -> Outcome:
    """Damage a copy of the good input, and use it. most: bytes that this process held for the good input."""
    what = ""

    def damage(folder: Path) -> None:
        nonlocal what
        what = kind.damage(random.Random(f"{seed} {name} {number}"), folder)

    arm(most)
    begin = cpu_seconds()
    try:
        outcome, message = _use(kind, good, place, damage)
    finally:
        taken = cpu_seconds() - begin
        disarm()
    above = max(0, peak() - most)
    if outcome != FAULT and taken > CPU_SECONDS:
        outcome, message = FAULT, f"{taken:.0f} s of CPU time: {message}"
    if outcome != FAULT and above > GIB:
        outcome, message = FAULT, f"{above / GIB:.1f} GiB above a good input: {message}"
    return Outcome(name, number, printable_line(what), outcome, message, taken, above / GIB)


def printable_line(text: str) -> str:
    """The text as JSON and a terminal can hold it, cut after 300 characters."""
    return text.encode(errors="backslashreplace").decode()[:300]


def _use(kind: Kind, good: Path, place: Path, damage: Callable[[Path], object] = lambda _: None) -> tuple[str, str]:
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(good, place, symlinks=True)
    damage(place)
    with contextlib.redirect_stderr(io.StringIO()):
        return judge(lambda: kind.use(place), kind.refusals)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), [int(word) for word in sys.argv[3].split(",")], Path(sys.argv[4]))
