"""Read-only git commands."""

import subprocess
from pathlib import Path


def git(root: Path, *args: str) -> str | None:
    """Run git in `root` and return its output without surrounding spaces; None if git or the command fails."""
    try:
        done = subprocess.run(["git", *args], cwd=root, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
