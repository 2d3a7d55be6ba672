"""`python -m benchmarks.fuzz`: gives damaged inputs to the code that reads them, and records what comes out.

Each input follows from the seed, its kind and its number. It must be refused in a clear line, or be accepted and give a
valid result, within 20 s of CPU time and 1 GiB above what a good input takes. Anything else is a fault; the program
then ends with exit code 1. Run it again with --kinds and --numbers to repeat some inputs.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.fuzzing.kinds import KINDS
from benchmarks.fuzzing.limits import CPU_SECONDS, FAULT, REFUSED, VALID, WALL_SECONDS, Outcome
from dmd.storage.files import write_text

ROOT = Path(__file__).resolve().parents[1]
REASONS = {
    signal.SIGXCPU: f"more than {CPU_SECONDS} s of CPU time",
    signal.SIGALRM: f"no end after {WALL_SECONDS} s",
}


def main(argv: list[str] | None = None) -> int:
    """Run the inputs, write the table and print a summary. Returns 1 if there is a fault."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=1000, help="number of inputs, divided among the kinds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--numbers", type=int, nargs="+", help="only these inputs of each kind")
    parser.add_argument("--out", type=Path, default=Path("runs/fuzz.json"))
    args = parser.parse_args(argv)
    rows = []
    for k, kind in enumerate(args.kinds):
        count = args.inputs // len(args.kinds) + (k < args.inputs % len(args.kinds))
        if not (numbers := args.numbers or range(count)):  # there are fewer inputs than kinds
            continue
        rows += run_kind(kind, args.seed, numbers)
        write_text(args.out, json.dumps({"seed": args.seed, **summarize(rows), "inputs": rows}, indent=1) + "\n")
        print(describe(kind, rows), flush=True)
    faults = [row for row in rows if row["outcome"] == FAULT]
    print(f"{len(rows)} inputs, {len(faults)} faults; table: {args.out}")
    return 1 if faults else 0


def run_kind(kind: str, seed: int, numbers: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Yield the row of each input. A process that dies is replaced, and goes on with the next input."""
    left = list(numbers)
    while left:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "rows.jsonl"
            words = ["-m", "benchmarks.fuzzing.worker", kind, str(seed), ",".join(map(str, left)), str(out)]
            variables = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": folder}
            done = subprocess.run(
                [sys.executable, *words], cwd=ROOT, env=variables, stderr=subprocess.PIPE, check=False
            )
            lines = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
        error = done.stderr.decode(errors="replace")
        if not lines:
            raise RuntimeError(f"{kind}: the process ended before its first input: {error[-2000:]}")
        yield from (line for line in lines if "begins" not in line)
        if "begins" in lines[-1]:
            reason = explain(done.returncode, error)
            yield Outcome(kind, lines[-1]["begins"], "", FAULT, reason).as_row()
        begun = {line["begins"] for line in lines if "begins" in line}
        left = [number for number in left if number not in begun]


def explain(code: int, error: str) -> str:
    """Say why a process died at an input."""
    name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return REASONS.get(-code, f"the process died, {name}: {' '.join(error.split())[-300:]}")


def summarize(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts of outcomes by kind, and the largest CPU time and memory."""
    kinds: dict[str, Any] = {}
    for kind in dict.fromkeys(row["kind"] for row in rows):
        own = [row for row in rows if row["kind"] == kind]
        counts = Counter(row["outcome"] for row in own)
        most = {name: max(row[name] for row in own) for name in ("cpu", "memory")}
        kinds[kind] = {name: counts[name] for name in (REFUSED, VALID, FAULT)} | most
    return {"kinds": kinds}


def describe(kind: str, rows: list[dict[str, Any]]) -> str:
    """One line for a kind, and one for each of its faults."""
    own = summarize(rows)["kinds"][kind]
    head = ", ".join(f"{own[name]} {name}" for name in (REFUSED, VALID, FAULT))
    lines = [f"{kind}: {head}; at most {own['cpu']:.1f} s of CPU time, {own['memory']:.2f} GiB above a good input"]
    faults = (row for row in rows if row["kind"] == kind and row["outcome"] == FAULT)
    lines += [f"  fault {row['number']}: {row['injected']!r}: {row['message'][:300]!r}" for row in faults]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
