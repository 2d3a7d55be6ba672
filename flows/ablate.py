"""`python -m flows.ablate ablations/NAME.yaml`: every variant and seed as a DVC experiment, then a comparison."""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from dmd.errors import ConfigError, UserError
from dmd.files import write_text
from flows.ablation import Ablation, Member, load_ablation, members
from flows.ablation_runs import publish_ablation
from flows.command import exit_code
from flows.comparison import compare, table
from flows.process import STOP, Stopped, run_streaming
from flows.record import METRICS
from flows.roots import git, only_one
from flows.services import use_running
from flows.store import check_reachable, tracking_uri

LAST = ("train", "evaluate")  # the stages that a member has to itself, unless it changes an earlier one
Say = Callable[[str], None]


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code: 1 if a member failed."""
    parser = argparse.ArgumentParser(prog="python -m flows.ablate", description=__doc__)
    parser.add_argument("file", type=Path, help="such as ablations/dmd2_paper.yaml")
    parser.add_argument("--at-once", type=int, help="members at the same time, instead of the file's own number")
    args = parser.parse_args(argv)
    return exit_code(lambda: _run(Path.cwd(), args.file, args.at_once))


def _run(root: Path, file: Path, at_once: int | None) -> int:
    if at_once is not None and at_once < 1:
        raise ConfigError(f"--at-once: {at_once} is not allowed; it must be 1 or more")
    if not (root / "dvc.yaml").is_file():
        raise ConfigError(f"{root} has no dvc.yaml: run this in the project's own folder")
    use_running(root)
    check_reachable(tracking_uri(root))
    name, ablation = file.stem, load_ablation(file)
    todo = members(name, ablation, root / "params.yaml", _own_groups(root))
    with only_one(root / "runs" / "ablate.lock", "another ablation works in this folder; wait for it, or stop it"):
        results = run_members(root, todo, at_once or ablation.at_once, _print)
        rows, report = write_comparison(root, name, ablation, results), _report(root, name)
        parent = publish_ablation(root, name, results, [report, report.with_suffix(".md")])
    print(f"\n{table(rows)}\n\n{report}\nMLflow: {tracking_uri(root)}, run {parent}\n")
    print("next:\n  dvc exp show\n  dvc exp apply NAME    # take one over")
    return 1 if any(row["failed"] for row in rows) else 0


def _print(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _report(root: Path, name: str) -> Path:
    return root / "reports" / "ablations" / f"{name}.json"


def _own_groups(root: Path) -> set[str]:
    """Groups of params.yaml that none but the last stages reads."""
    stages = YAML(typ="safe").load(root / "dvc.yaml")["stages"]
    groups = {name: set(stage.get("params", ())) for name, stage in stages.items()}
    shared = set().union(*(g for name, g in groups.items() if name not in LAST))
    return set().union(*groups.values()) - shared


def run_members(root: Path, todo: list[Member], at_once: int, say: Say) -> dict[Member, dict[str, Any] | None]:
    """Each member's metrics, None where it failed. What is already an experiment of this commit is not run again.

    Of members that share their teacher the first goes alone: the others find its stages in DVC's cache.
    """
    _check_clean(root)
    found = {m: result(root, m) for m in todo}
    missing = [m for m in todo if found[m] is None]
    for member in (m for m in todo if found[m] is not None):
        say(f"{member.experiment}: already there")
    waves: defaultdict[str, list[Member]] = defaultdict(list)
    for member in missing:
        waves[member.upstream].append(member)
    leaders = [wave[0] for wave in waves.values()]
    followers = [m for wave in waves.values() for m in wave[1:]]
    STOP.clear()
    with ThreadPoolExecutor(at_once) as pool:
        try:
            for wave in (leaders, followers):
                futures = {pool.submit(_run_member, root, m, say): m for m in wave}
                for future in as_completed(futures):
                    found[futures[future]] = future.result()
        except BaseException:
            STOP.set()
            pool.shutdown(wait=False, cancel_futures=True)  # those that wait their turn need not begin
            raise
    return found


def _check_clean(root: Path) -> None:
    dirty = git(
        root, "status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)dvc.lock", ":(exclude)reports"
    )
    if dirty is None:
        raise UserError("an ablation needs git with a commit: every member is an experiment of the last one")
    if dirty:
        raise UserError(
            f"commit your changes first, every member is an experiment of the last commit: {dirty.split()[-1]}"
        )


def _run_member(root: Path, member: Member, say: Say) -> dict[str, Any] | None:
    """`dvc exp run --temp`: in a copy of its own. DVC throws a failed one away, so its last words are told here."""
    say(f"{member.experiment}: started")
    lines: list[str] = []
    sets = [word for key, value in member.changes.items() for word in ("-S", f"{key}={json.dumps(value)}")]
    argv = [sys.executable, "-m", "dvc", "exp", "run", "--temp", "-n", member.experiment, *sets]
    try:
        code = run_streaming(argv, root, lines.append)
    except Stopped:
        return None
    metrics = result(root, member) if code == 0 else None
    if metrics is None:
        own = [line for line in lines if line.lower().startswith("error: ")] or lines[-1:]
        say(f"{member.experiment}: failed: {'; '.join(own)}")
    else:
        ratios = ", ".join(f"{name} {value:.3f}" for name, value in metrics["ratio"]["fd"].items())
        say(f"{member.experiment}: FD ratio {ratios}")
    return metrics


def result(root: Path, member: Member) -> dict[str, Any] | None:
    """The metrics of an experiment of the present commit; None where there is none."""
    head = git(root, "rev-parse", "HEAD") or ""
    text = git(root, "show", f"refs/exps/{head[:2]}/{head[2:]}/{member.experiment}:{METRICS.as_posix()}")
    return json.loads(text) if text else None


def write_comparison(
    root: Path, name: str, ablation: Ablation, results: dict[Member, dict[str, Any] | None]
) -> list[dict[str, Any]]:
    """reports/ablations/NAME.json and NAME.md; returns the rows."""
    rows = compare(ablation, results)
    about = {"name": name, "description": ablation.description, "commit": git(root, "rev-parse", "HEAD"), "rows": rows}
    path = _report(root, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(about, indent=2) + "\n")
    write_text(
        path.with_suffix(".md"), f"{ablation.description}: mean ± standard deviation over seeds.\n\n{table(rows)}\n"
    )
    return rows


if __name__ == "__main__":
    sys.exit(main())
