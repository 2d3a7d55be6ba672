"""The processes that work in a project."""

from pathlib import Path

import psutil

from flows.runtime.git import git


def at_work(project: Path) -> list[psutil.Process]:
    """Processes whose working directory is the project's folder or one of its worktrees."""
    listed = git(project, "worktree", "list", "--porcelain") or ""
    places = [Path(line.removeprefix("worktree ")) for line in listed.splitlines() if line.startswith("worktree ")]
    processes = [p for p in psutil.process_iter(["cwd", "status"]) if p.info["status"] != "zombie"]
    return [p for p in processes if any(Path(p.info["cwd"] or "/").is_relative_to(place) for place in places)]
