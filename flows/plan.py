"""What a run would do, by DVC's own judgement, before it does anything."""

import re
import subprocess
import sys
from pathlib import Path

from dmd.errors import UserError
from flows.graph import StageSpec, ancestors, stage_graph
from flows.presets import Variant, apply
from flows.worktrees import check_committed, worktree

RUNS = re.compile(r"^Running stage '([^']+)'", re.MULTILINE)


def plan(root: Path, variants: list[Variant], force: list[str]) -> str:
    """A line for each stage, in the workspace or for each variant."""
    if not variants:
        return _lines(root, force)
    commit, parts = check_committed(root), []
    for variant in variants:
        with worktree(root, commit) as place:
            apply(variant.changes, place / "params.yaml")
            changes = ", ".join(f"{key} {value}" for key, value in variant.changes.items()) or "no changes"
            parts.append(f"{variant.experiment} ({changes}):\n{_lines(place, force)}")
    return "\n\n".join(parts)


def _lines(root: Path, force: list[str]) -> str:
    graph = stage_graph(root)
    runs = _would_run(root, graph, force)
    width = max(map(len, graph))
    said = {True: "runs, or comes from DVC's cache", False: "unchanged"}
    return "\n".join(f"  {name:{width}}  {said[name in runs]}" for name in graph)


def _would_run(root: Path, graph: dict[str, StageSpec], force: list[str]) -> set[str]:
    """Stages that DVC finds changed, and all that stand on them: a dry run alone does not know their new inputs."""
    argv = [sys.executable, "-m", "dvc", "repro", "--dry", "--allow-missing"]
    done = subprocess.run(argv, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"DVC can't tell what would run: {' '.join(done.stderr.split())[-300:]}")
    changed = {*RUNS.findall(done.stdout), *force}
    return {name for name in graph if changed & set(ancestors(graph, name))}
