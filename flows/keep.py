"""`python -m flows.keep experiments/ablations/NAME.yaml ROW`: keep a row of an ablation as the benchmark of record.

Of its first seed metrics.json, timing.json, the report, pictures, losses, params.yaml, dvc.lock and baseline.json (the
teacher's figures, for baseline.measured), and the figures of every seed (seeds.json), in records/NAME/. The
experiments are those of the present commit.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from dmd.errors import UserError
from dmd.storage.files import write_bytes, write_text
from flows.ablation import experiment
from flows.ablation.plan import Member, load_plan
from flows.registry.result import LOSSES, METRICS, REPORT, SAMPLES, TIMING
from flows.runtime.command import exit_code
from flows.runtime.roots import git

FIGURES = ("fd", "fd_held_out", "precision", "recall", "clip_score", "interval")
BASELINE = Path("artifacts/baseline/baseline.json")
IN_GIT = (METRICS, TIMING, SAMPLES, LOSSES, Path("params.yaml"), Path("dvc.lock"))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m flows.keep", description=__doc__)
    parser.add_argument("file", type=Path, help="the ablation")
    parser.add_argument("row", help="the row to keep")
    args = parser.parse_args()
    return exit_code(lambda: keep(Path.cwd(), args.file, args.row))


def keep(root: Path, file: Path, row: str) -> int:
    """Write the folder. Raises UserError where a member of the row is not there."""
    planned = load_plan(root, file).members
    members = [m for m in planned if m.row == row]
    if not members:
        raise UserError(f"{file} has no row {row!r}; it has {', '.join(dict.fromkeys(m.row for m in planned))}")
    if missing := [m.experiment for m in members if not experiment.is_there(root, m)]:
        raise UserError(f"no such result at the present commit: {', '.join(missing)}; python -m flows.ablate {file}")
    first, out = members[0], root / "records" / file.stem
    for path in IN_GIT:
        data = experiment.read(root, first, path)
        if data is None:
            raise UserError(f"{first.experiment} has no {path}")
        write_bytes(out / path.name, data)
    fetch(root, first, REPORT, out / "report.html")
    fetch(root, first, BASELINE, out / BASELINE.name)
    write_text(out / "seeds.json", json.dumps(seeds(root, members), indent=2) + "\n")
    print(f"{out}: {first.experiment}, and the figures of {len(members)} seeds")
    return 0


def seeds(root: Path, members: list[Member]) -> dict[str, object]:
    """The commit, and of each seed student, ratio and best teacher."""
    found: dict[str, object] = {"commit": git(root, "rev-parse", "HEAD")}
    for member in members:
        metrics = json.loads(experiment.read(root, member, METRICS) or b"{}")
        best = {k: metrics["teachers"][name] for k, name in metrics["best_teacher"].items()}
        found[f"seed {member.seed}"] = {
            "experiment": member.experiment,
            "ratio": metrics["ratio"],
            "student": {k: metrics["student"][k] for k in FIGURES},
            "best_teacher": metrics["best_teacher"],
            "recall_ratio": {k: metrics["student"]["recall"][k] / teacher["recall"][k] for k, teacher in best.items()},
        }
    return found


def fetch(root: Path, member: Member, path: Path, out: Path) -> None:
    """A file that DVC keeps, from its cache."""
    words = [sys.executable, "-m", "dvc", "get", ".", path.as_posix(), "--rev", member.experiment, "-o", str(out), "-f"]
    done = subprocess.run(words, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"{path} of {member.experiment}: {' '.join(done.stderr.split())[-300:]}")


if __name__ == "__main__":
    sys.exit(main())
