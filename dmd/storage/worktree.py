"""The repository's main worktree, which holds everything that must outlive a temporary worktree."""

import subprocess
from pathlib import Path


def main_worktree(root: Path) -> Path:
    """Return the main worktree of the repository that contains `root`; outside git, `root` as an absolute path."""
    command = ["git", "rev-parse", "--path-format=absolute", "--git-common-dir"]
    try:
        git = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    except FileNotFoundError:  # git is not installed
        return root.resolve()
    common = Path(git.stdout.strip())
    return common.parent if git.returncode == 0 and common.name == ".git" else root.resolve()
