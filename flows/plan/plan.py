"""The text of --dry-run: which stages would run, by DVC's own judgement, and what the run would need."""

import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from dmd.config import load_params
from dmd.errors import UserError
from flows.pipeline.changes import change_file
from flows.pipeline.presets import Variant
from flows.pipeline.worktrees import check_committed, temporary_worktree
from flows.workspace import dvc_lock
from flows.workspace.graph import read_graph, select_stages

RUNS = re.compile(r"^Running stage '([^']+)'", re.MULTILINE)
FAILED = re.compile(r"failed to reproduce(?: stages:)? (.*)")
MISSING = "[Errno 2] No such file or directory"
QUOTED = re.compile(r"'([^']+)'")
LISTED = 12  # changes of a variant that are listed one by one
RUN, UNCHANGED = "runs or is restored from DVC's cache", "unchanged"


def plan(
    root: Path, variants: list[Variant], force: list[str], target: str | None = None, preset: str | None = None
) -> str:
    """A line for each stage up to the target, in the workspace or for each variant, and memory and time of the run."""
    if not variants:
        return _plan_of(root, force, target, {}, preset)
    commit, parts = check_committed(root), []
    for variant in variants:
        with temporary_worktree(root, commit) as place:
            change_file(variant.fill(root), place / "params.yaml")
            lines = _plan_of(place, force, target, variant.missing, preset)
        parts.append(f"{variant.experiment} ({_changes(variant)}):\n{lines}")
    return "\n\n".join(parts)


def _changes(variant: Variant) -> str:
    """The changes of a variant, or only their number if they are many: a preset's can be read in its file."""
    if len(variant.changes) > LISTED:
        return f"{len(variant.changes)} changes to params.yaml"
    return ", ".join(f"{key} {value}" for key, value in variant.changes.items()) or "no changes"


def _plan_of(root: Path, force: list[str], target: str | None, missing: Mapping[str, str], preset: str | None) -> str:
    graph = read_graph(root)
    names = select_stages(graph, target) if target else list(graph)
    changed = _changed(root, force)
    runs = {name for name in names if changed & set(select_stages(graph, name))}
    sizes: Mapping[str, str] = {}
    summary: list[str] = []
    if "train" in graph:  # it is this project
        from flows.plan.estimate import estimate  # imports torch and diffusers, which takes seconds

        params = load_params(root / "params.yaml")
        estimated = estimate(params, root, runs, missing, preset, memory="train" in names)
        sizes, summary = estimated.stages, estimated.summary
    needed = [f"--set {key}=PATH is needed: {what}" for key, what in missing.items()]
    state = {name: RUN if name in runs else UNCHANGED for name in names}
    widths = max(map(len, names)), max(map(len, state.values()))
    stages = [f"{name:{widths[0]}}  {state[name]:{widths[1]}}  {sizes.get(name, '')}".rstrip() for name in names]
    return "\n".join(f"  {line}" for line in (*needed, *stages, *summary))


def _changed(root: Path, force: list[str]) -> set[str]:
    """Stages that DVC finds changed, that are forced, or whose results the cache lacks, without those behind them.

    With --allow-missing DVC takes results that no cache has, as in a fresh clone, for unchanged. If the inputs of a
    changed stage are missing, as in a fresh worktree, DVC fails on the stage; the stage then counts as changed. Raises
    UserError with DVC's message if DVC fails otherwise.
    """
    argv = [sys.executable, "-m", "dvc", "repro", "--dry", "--allow-missing", "--keep-going"]
    done = subprocess.run(argv, cwd=root, capture_output=True, text=True, check=False)
    failed = [name for line in FAILED.findall(done.stderr) for name in QUOTED.findall(line)]
    if done.returncode and not (failed and len(failed) == done.stderr.count(MISSING)):
        raise UserError(f"DVC cannot tell which stages would run: {' '.join(done.stderr.split())[-300:]}")
    return {*RUNS.findall(done.stdout), *failed, *force, *dvc_lock.find_missing(root)}
