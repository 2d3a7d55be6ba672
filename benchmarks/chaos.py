"""`python -m benchmarks.chaos`: puts faults into runs of the pipeline, and checks that nothing of them remains.

The plan follows from the seed. Each life begins with a fresh copy of the project with reduced numbers. Its runs get one
fault each, and a last run gets none; if a run completes in spite of its fault, the next one has a new copy. Each copy
must then equal a project without faults: the generator is identical to the byte,
there is one complete MLflow run and one version, and no running MLflow run, process, stray file or lock is left. The
default of 60 SIGKILLs takes hours: about 80 runs of one to two minutes each on an idle machine.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.wrecking.checks import State, find_differences, read_state
from benchmarks.wrecking.plan import FLOW, FULL_DISK, KILLS, READ_ONLY, SEARCH, SERVERS, Fault, Life, make_plan
from benchmarks.wrecking.runs import Ended, Run
from dmd.storage.files import write_text
from flows.runtime.git import git
from tests.helpers.projects import ROOT, copy_of_the_project, environment
from tests.helpers.servers import free_port

DISTILL = ["-m", "flows.distill"]
SEARCHES = ["-m", "flows.search", "experiments/searches/chaos.yaml"]
SEARCH_FILE = """description: a search for benchmarks.chaos
trials: 4
turns: [2, 4]
space:
  train.lr_generator: {log: [1.0e-4, 1.0e-2]}
"""
READ_ONLY_PLACES = ("artifacts", "runs", ".dvc/cache", "reports")
RESULTS = {FLOW: ("artifacts/generator", "reports/metrics.json"), SEARCH: ("reports/searches/chaos.json",)}
MIB = 2**20
LEAST_SHARE = 0.1  # a fault that came too late at a smaller share is not tried again
LEAST_ROOM, MOST_ROOM = 1.02, 1.5  # size of a disk that fills up, times the project's before a run


def main(argv: list[str] | None = None) -> int:
    """Run the plan, write the table and print it. Returns 1 if something of a fault remains."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kills", type=int, default=60, help="number of SIGKILLs; other faults are added")
    parser.add_argument("--lives", type=int, nargs="+", help="only these lives of the plan, counted from 0")
    parser.add_argument("--out", type=Path, default=Path("runs/chaos.json"), help="keeps other lives of the same plan")
    parser.add_argument("--work", type=Path, help="folder for the projects; default: a temporary one")
    args = parser.parse_args(argv)
    plan = make_plan(args.seed, args.kills)
    lives = args.lives or range(len(plan))
    if wrong := [k for k in lives if not 0 <= k < len(plan)]:
        parser.error(f"--lives: the plan has no life {wrong[0]}; its lives are 0 to {len(plan) - 1}")
    table = read_table(args.out, args.seed, args.kills)
    with tempfile.TemporaryDirectory(dir=args.work) as work:
        laboratory = Laboratory(Path(work))
        for k in lives:
            life = laboratory.live(plan[k], k)
            others = [other for other in table["lives"] if other["life"] != k]
            table["lives"] = sorted([*others, life], key=lambda life: life["life"])
            write_text(args.out, json.dumps(table, indent=1) + "\n")
            print(describe(life), flush=True)
    return summarize(table, args.out)


def read_table(file: Path, seed: int, kills: int) -> dict[str, Any]:
    """Read a table of the same plan, to which lives are added; an empty one if there is none."""
    empty: dict[str, Any] = {"seed": seed, "kills": kills, "lives": []}
    table = json.loads(file.read_text()) if file.exists() else empty
    return table if table.keys() == empty.keys() and (table["seed"], table["kills"]) == (seed, kills) else empty


def summarize(table: dict[str, Any], file: Path) -> int:
    """Print what the faults have met. Returns 1 if something of a fault remains."""
    different = [life for life in table["lives"] if life["differences"]]
    faults = [fault for life in table["lives"] for fault in life["faults"]]
    kills = sum(fault["injected"] and fault["kind"] in KILLS for fault in faults)
    reached = sum(fault["injected"] for fault in faults)
    print(f"{reached} of {len(faults)} faults reached their moment, {kills} of them SIGKILLs of the run")
    print(f"{len(table['lives'])} lives, {len(different)} of them not as without faults; table: {file}")
    return 1 if different else 0


class Laboratory:
    """The undisturbed runs, and the lives that are compared with them."""

    def __init__(self, work: Path) -> None:
        self.work, self.undisturbed = work, dict[str, tuple[State, Ended]]()

    def live(self, life: Life, number: int) -> dict[str, Any]:
        """Run a life, in a new project whenever one is complete. Returns its row of the table."""
        state, whole = self._without_faults(life.command)
        rows, differences, left = list[dict[str, Any]](), list[str](), list(life.faults)
        while left:
            project = self._copy(f"life{number}-{len(rows)}")
            with variables(life, project) as env:
                for row in self._disturb_until_complete(project, life, left, whole, env):
                    rows.append(row)
                    differences += filter(None, [row["wrong"]])
                if rows[-1]["exit_code"]:
                    last = Run(project, command(life.command), env).follow(None, {})
                    if last.code:
                        differences.append(f"the last run ended with exit code {last.code}: {last.output[-500:]}")
            differences += find_differences(project, state, environment())  # after the end of its servers
        commit = git(ROOT, "rev-parse", "--short=12", "HEAD")
        return {
            "life": number,
            "command": life.command,
            "commit": commit,
            "faults": rows,
            "differences": differences,
        }

    def _disturb_until_complete(
        self, project: Path, life: Life, left: list[Fault], whole: Ended, env: dict[str, str]
    ) -> Iterator[dict[str, Any]]:
        """Yield a row for each run with a fault, up to the first that completes the project; remove the faults.

        A moment that passed before its share of the expected time is tried again in the next run, at half the share.
        """
        while left:
            fault = left.pop(0)
            ended = self._disturb(project, life, fault, whole, env)
            yield {**vars(fault), "injected": ended.injected, "exit_code": ended.code, **judge(ended)}
            if not ended.injected and fault.share > LEAST_SHARE:
                left.insert(0, replace(fault, share=fault.share / 2))
            if ended.code == 0:
                return

    def _copy(self, name: str) -> Path:
        project = copy_of_the_project(self.work / name)
        (project / "experiments/searches/chaos.yaml").write_text(SEARCH_FILE)
        (project / ".git/info/exclude").write_text("experiments/searches/chaos.yaml\n")
        return project

    def _without_faults(self, name: str) -> tuple[State, Ended]:
        """The state after an undisturbed run of a command, and that run. With servers it must be the same."""
        name = SEARCH if name == SEARCH else FLOW
        if name not in self.undisturbed:
            project = self._copy(f"undisturbed{len(self.undisturbed)}")
            ended = Run(project, command(name), environment()).follow(None, {})
            if ended.code:
                raise RuntimeError(f"an undisturbed run ended with exit code {ended.code}: {ended.output[-2000:]}")
            self.undisturbed[name] = read_state(project, RESULTS[name], environment()), ended
        return self.undisturbed[name]

    def _disturb(self, project: Path, life: Life, fault: Fault, whole: Ended, env: dict[str, str]) -> Ended:
        """Run the command with one fault."""
        argv = command(life.command)
        if fault.kind in (FULL_DISK, READ_ONLY):
            with (full_disk if fault.kind == FULL_DISK else read_only)(project, fault.share):
                ended = Run(project, argv, env).follow(None, {})
            ended.injected = ended.code != 0
            return ended
        if life.command == SERVERS:
            services(project, "up", env)  # an earlier fault may have ended them
        return Run(project, argv, env).follow(fault, whole.parts)


def command(name: str) -> list[str]:
    """The words of the command that a life runs."""
    return SEARCHES if name == SEARCH else DISTILL


def judge(ended: Ended) -> dict[str, str]:
    """The entry `wrong` of a run's row: the end of its output if that has a traceback, otherwise ""."""
    traceback = "Traceback (most recent call last)" in ended.output
    return {"wrong": f"a traceback: {ended.output[-1500:]}" if traceback else ""}


@contextmanager
def variables(life: Life, project: Path) -> Iterator[dict[str, str]]:
    """The environment of the runs of a life, whose servers end with it."""
    env = environment()
    if life.command != SERVERS:
        yield env
        return
    env |= {"PREFECT_PORT": str(free_port()), "MLFLOW_PORT": str(free_port())}
    services(project, "up", env)
    try:
        yield env
    finally:
        services(project, "down", env)


def services(project: Path, what: str, env: dict[str, str]) -> None:
    """Start or end the servers of a project, as `make up` and `make down` do."""
    subprocess.run(
        [sys.executable, "-m", "flows.services", what], cwd=project, env=env, check=True, capture_output=True
    )


@contextmanager
def full_disk(project: Path, share: float) -> Iterator[None]:
    """Put the project on a disk with little room, and move it back at the end.

    share: 0 to 1; the room grows with it, from LEAST_ROOM to MOST_ROOM times the project's size.
    """
    size = sum(path.stat().st_size for path in project.rglob("*") if path.is_file() and not path.is_symlink())
    room = int(size * (LEAST_ROOM + share * (MOST_ROOM - LEAST_ROOM))) // MIB + 1
    aside = project.with_name(f"{project.name}-aside")
    project.rename(aside)
    project.mkdir()
    mount("-t", "tmpfs", "-o", f"size={room}M", "tmpfs", str(project))
    try:
        copy_all(aside, project)
        yield
        mount("-o", "remount,size=90%", str(project))
        subprocess.run(["rm", "-rf", str(aside)], check=True)
        copy_all(project, aside)
    finally:
        subprocess.run(["umount", "--lazy", str(project)], check=True)
        project.rmdir()
        aside.rename(project)


def copy_all(source: Path, target: Path) -> None:
    """Copy the content of a folder with times and links, as DVC compares times."""
    target.mkdir(exist_ok=True)
    subprocess.run(["cp", "-a", f"{source}/.", str(target)], check=True)


@contextmanager
def read_only(project: Path, share: float) -> Iterator[None]:
    """Make one folder of the project read-only. share: 0 to 1; it chooses among READ_ONLY_PLACES."""
    place = project / READ_ONLY_PLACES[int(share * len(READ_ONLY_PLACES))]
    place.mkdir(parents=True, exist_ok=True)
    mount("--bind", str(place), str(place))
    try:
        mount("-o", "remount,bind,ro", str(place))
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def mount(*words: str) -> None:
    """Call mount. Raises RuntimeError if this user may not."""
    done = subprocess.run(["mount", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(
            f"mount {' '.join(words)}: {done.stderr.strip()}; run as root, or choose lives without a full disk and a "
            f"read-only mount by --lives"
        )


def describe(life: dict[str, Any]) -> str:
    """One line for a life, and one for each of its faults and differences."""
    lines = [
        f"life {life['life']} ({life['command']}): {'as without faults' if not life['differences'] else 'DIFFERS'}"
    ]
    for fault in life["faults"]:
        came = "" if fault["injected"] else ", not reached"
        lines.append(f"  {fault['kind']} in {fault['moment']} at {fault['share']:.0%}{came}: exit {fault['exit_code']}")
    return "\n".join([*lines, *(f"  DIFFERENCE {text}" for text in life["differences"])])


if __name__ == "__main__":
    sys.exit(main())
