"""The text of --dry-run: the stages that DVC would run, and the memory and time that the run would need."""

import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from dmd.config import load_params
from dmd.errors import UserError
from flows.pipeline.changes import change_file
from flows.pipeline.own_data import list_notes
from flows.pipeline.presets import Variant
from flows.pipeline.worktrees import find_uncommitted, last_commit, temporary_worktree
from flows.workspace import dvc_lock
from flows.workspace.foresight import OPEN, RUNS, foresee
from flows.workspace.graph import read_graph, select_stages

STALE = re.compile(r"^Running stage '([^']+)'", re.MULTILINE)
FAILED = re.compile(r"failed to reproduce(?: stages:)? (.*)")
MISSING = "[Errno 2] No such file or directory"
QUOTED = re.compile(r"'([^']+)'")
MAX_LISTED = 12  # a variant with more changes is described by their number alone


def plan(
    root: Path,
    variants: list[Variant],
    force: Sequence[str],
    target: str | None = None,
    preset: str | None = None,
    on: str | None = None,
) -> str:
    """Return a line for each stage up to the target, and the memory and time of the run.

    The plan is that of the workspace, or one for each variant. on: GPUs to estimate for, such as h100x8.
    """
    if not variants:
        return _plan_folder(root, force, target, {}, preset, on)
    commit, parts = last_commit(root), []
    if file := find_uncommitted(root):
        parts.append(f"note: {file} has uncommitted changes; this is the plan of the last commit")
    for variant in variants:
        with temporary_worktree(root, commit) as place:
            change_file(variant.fill(root), place / "params.yaml")
            lines = _plan_folder(place, force, target, variant.missing, preset, on)
        parts.append(f"{variant.experiment} ({_describe_changes(variant)}):\n{lines}")
    return "\n\n".join(parts)


def _describe_changes(variant: Variant) -> str:
    """The changes of a variant; only their number if there are many, since the preset's file lists them."""
    if len(variant.changes) > MAX_LISTED:
        return f"{len(variant.changes)} changes to params.yaml"
    return ", ".join(f"{key} {value}" for key, value in variant.changes.items()) or "no changes"


def _plan_folder(
    root: Path, force: Sequence[str], target: str | None, missing: Mapping[str, str], preset: str | None, on: str | None
) -> str:
    graph = read_graph(root)
    names = select_stages(graph, target) if target else list(graph)
    outcomes = foresee(root, names, _find_stale(root), dvc_lock.find_missing(root), force)
    runs = {name for name in names if outcomes[name] in (RUNS, OPEN)}
    sizes: Mapping[str, str] = {}
    summary: list[str] = []
    if "train" in graph:  # a dvc.yaml without that stage has no networks to estimate
        # These imports bring torch and diffusers, which takes seconds.
        from flows.plan.devices import read_target
        from flows.plan.estimate import estimate

        params, gpus = load_params(root / "params.yaml"), read_target(on) if on else None
        result = estimate(params, root, runs, missing, preset, memory="train" in names, on=gpus)
        sizes, summary = result.stages, result.summary
    needed = [f"--set {key}=PATH is needed: {what}" for key, what in missing.items()]
    needed += list_notes(load_params(root / "params.yaml"))
    widths = max(map(len, names)), max(map(len, outcomes.values()))
    stages = [f"{name:{widths[0]}}  {outcomes[name]:{widths[1]}}  {sizes.get(name, '')}".rstrip() for name in names]
    return "\n".join(f"  {line}" for line in (*needed, *stages, *summary))


def _find_stale(root: Path) -> set[str]:
    """Stages that DVC reports as changed. Stages that only depend on such stages are not included.

    With --allow-missing, DVC treats results that no cache has, as in a fresh clone, as unchanged. If the inputs of a
    changed stage are missing, as in a fresh worktree, DVC fails on that stage, which then counts as changed. Raises
    UserError with DVC's message if DVC fails for another reason.
    """
    argv = [sys.executable, "-m", "dvc", "repro", "--dry", "--allow-missing", "--keep-going"]
    done = subprocess.run(argv, cwd=root, capture_output=True, text=True, check=False)
    failed = [name for line in FAILED.findall(done.stderr) for name in QUOTED.findall(line)]
    if done.returncode and not (failed and len(failed) == done.stderr.count(MISSING)):
        raise UserError(f"DVC cannot tell which stages would run: {' '.join(done.stderr.split())[-300:]}")
    return {*STALE.findall(done.stdout), *failed}
