"""The record of a result in records/NAME: files of one row of an ablation, copied from its DVC experiments."""

import json
import subprocess
import sys
from pathlib import Path

from dmd.errors import UserError
from dmd.storage.files import write_bytes, write_text
from evaluation.metrics.measures import MEASURES
from flows.ablation import experiment
from flows.ablation.plan import Member, load_plan
from flows.registry.result import DETAILS, LOSSES, METRICS, REPORT, SAMPLES, TIMING

BASELINE = Path("artifacts/baseline/baseline.json")
IN_GIT = (METRICS, DETAILS, TIMING, SAMPLES, LOSSES, Path("params.yaml"), Path("dvc.lock"))
IN_CACHE = {REPORT: "report.html", BASELINE: BASELINE.name}  # path in the project -> name in the record


def keep(root: Path, file: Path, row: str) -> str:
    """Write the record of a row of an ablation file; return the line to print.

    The record holds files of the row's first seed, and the figures of every seed in seeds.json.
    Raises UserError if the file has no such row, or if the present commit lacks one of its experiments.
    """
    plan = load_plan(root, file)
    members = [m for m in plan.members if m.row == row]
    if not members:
        raise UserError(f"{file} has no row {row!r}; it has {', '.join(dict.fromkeys(m.row for m in plan.members))}")
    if missing := [m.experiment for m in members if not experiment.exists(root, m)]:
        raise UserError(
            f"the present commit has no experiment {', '.join(missing)}; run python -m flows.ablate {file} first"
        )
    first, out = members[0], root / "records" / file.stem
    for path in IN_GIT:
        data = experiment.read(root, first, path)
        if data is None:
            raise UserError(f"experiment {first.experiment} has no {path}; remove it and run the ablation again")
        write_bytes(out / path.name, data)
    for path, name in IN_CACHE.items():
        _fetch(root, first, path, out / name)
    write_text(out / "seeds.json", json.dumps(_summarize_seeds(root, members, plan.commit), indent=2) + "\n")
    return f"{out}: files of {first.experiment}, figures of {len(members)} seeds"


def _summarize_seeds(root: Path, members: list[Member], commit: str) -> dict[str, object]:
    """Content of seeds.json: the commit, and for each seed the student's figures, the ratio and the best teacher."""
    summary: dict[str, object] = {"commit": commit}
    for member in members:
        metrics = experiment.load_metrics(root, member)
        if metrics is None:
            raise UserError(f"experiment {member.experiment} has no {METRICS}; remove it and run the ablation again")
        student, best = metrics.student.model_dump(), metrics.best_teacher
        recalls = {k: metrics.teachers[name].values("recall")[k] for k, name in best.items()}
        summary[f"seed {member.seed}"] = {
            "experiment": member.experiment,
            "ratio": metrics.ratio.model_dump(),
            "student": {key: student[key] for key in (*MEASURES, "interval")},
            "best_teacher": best,
            "recall_ratio": {k: metrics.student.values("recall")[k] / recall for k, recall in recalls.items()},
        }
    return summary


def _fetch(root: Path, member: Member, path: Path, out: Path) -> None:
    """Copy an output of the member's experiment from DVC's cache. Raises UserError if DVC fails."""
    words = [sys.executable, "-m", "dvc", "get", ".", path.as_posix(), "--rev", member.experiment, "-o", str(out), "-f"]
    done = subprocess.run(words, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = " ".join(done.stderr.split())[-300:]
        raise UserError(f"{path} of experiment {member.experiment} can't be copied from DVC's cache: {reason}")
