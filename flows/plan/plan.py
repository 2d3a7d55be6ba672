"""What a run would do, by DVC's own judgement, before it does anything."""

import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from dmd.config import load_params
from dmd.errors import UserError
from flows.pipeline import dvc_lock
from flows.pipeline.changes import change_file
from flows.pipeline.graph import StageSpec, read_graph, select_stages
from flows.pipeline.presets import Variant
from flows.pipeline.worktrees import check_committed, temporary_worktree

RUNS = re.compile(r"^Running stage '([^']+)'", re.MULTILINE)
FAILED = re.compile(r"failed to reproduce(?: stages:)? (.*)")
SHOWN = 12  # changes of a variant that are listed
MISSING = "[Errno 2] No such file or directory"
QUOTED = re.compile(r"'([^']+)'")


def plan(root: Path, variants: list[Variant], force: list[str], target: str | None = None) -> str:
    """A line for each stage up to the target, in the workspace or for each variant, and what the run would need."""
    if not variants:
        return _lines(root, force, target, {})
    commit, parts = check_committed(root), []
    for variant in variants:
        with temporary_worktree(root, commit) as place:
            change_file(variant.fill(root), place / "params.yaml")
            parts.append(f"{variant.experiment} ({_told(variant)}):\n{_lines(place, force, target, variant.missing)}")
    return "\n\n".join(parts)


def _told(variant: Variant) -> str:
    """Its changes, or how many: a preset's are in its file."""
    if len(variant.changes) > SHOWN:
        return f"{len(variant.changes)} changes to params.yaml"
    return ", ".join(f"{key} {value}" for key, value in variant.changes.items()) or "no changes"


def _lines(root: Path, force: list[str], target: str | None, missing: Mapping[str, str]) -> str:
    graph = read_graph(root)
    names = select_stages(graph, target) if target else list(graph)
    runs = _would_run(root, graph, force) & set(names)
    wanted = [f"  --set {key}=PATH is needed: {what}" for key, what in missing.items()]
    sizes, below = _estimate(root, graph, names, runs, missing)
    width = max(map(len, names))
    said = {True: "runs, or comes from DVC's cache", False: "unchanged"}
    column = max(len(said[name in runs]) for name in names)
    lines = (f"  {name:{width}}  {said[name in runs]:{column}}  {sizes.get(name, '')}".rstrip() for name in names)
    return "\n".join([*wanted, *lines, *(f"  {line}" for line in below)])


def _estimate(
    root: Path, graph: dict[str, StageSpec], names: list[str], runs: set[str], missing: Mapping[str, str]
) -> tuple[dict[str, str], list[str]]:
    """What the stages handle, and the lines below them; nothing for another project's stages."""
    if "train" not in graph:
        return {}, []
    from flows.plan.estimate import estimate  # torch and diffusers: seconds, and only this needs them

    found = estimate(load_params(root / "params.yaml"), root, runs, missing, memory="train" in names)
    return found.stages, found.below


def _would_run(root: Path, graph: dict[str, StageSpec], force: list[str]) -> set[str]:
    """Stages that DVC finds changed, and all that stand on them: a dry run alone does not know their new inputs.

    Results that no cache has, as in a fresh clone, it takes for unchanged (--allow-missing). Where a changed stage's
    inputs are not there, as in a fresh worktree, DVC stumbles over it; that too says that it is changed. Raises
    UserError with DVC's own words for any other trouble.
    """
    argv = [sys.executable, "-m", "dvc", "repro", "--dry", "--allow-missing", "--keep-going"]
    done = subprocess.run(argv, cwd=root, capture_output=True, text=True, check=False)
    stumbled = [name for line in FAILED.findall(done.stderr) for name in QUOTED.findall(line)]
    if done.returncode and not (stumbled and len(stumbled) == done.stderr.count(MISSING)):
        raise UserError(f"DVC can't tell what would run: {' '.join(done.stderr.split())[-300:]}")
    changed = {*RUNS.findall(done.stdout), *stumbled, *force, *dvc_lock.find_missing(root)}
    return {name for name in graph if changed & set(select_stages(graph, name))}
