"""Read-only git commands, and the identity of commits."""

import os
import subprocess
from pathlib import Path

from dmd.errors import UserError


def git(root: Path, *args: str) -> str | None:
    """Run git in `root` and return its output without surrounding spaces; None if git or the command fails."""
    try:
        done = subprocess.run(["git", *args], cwd=root, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def check_owner(root: Path) -> None:
    """Raise UserError if git refuses to work in a folder of another user, as in a container with a mounted folder."""
    done = subprocess.run(["git", "rev-parse"], cwd=root, capture_output=True, text=True, check=False)
    if "dubious ownership" in done.stderr:
        remedy = f"git config --global --add safe.directory '{root}'"
        raise UserError(f"git refuses to work in {root}, which belongs to another user; to trust it: {remedy}")


def ensure_identity(root: Path) -> str | None:
    """Let git commit in `root`, in this process and its children, also if git knows no user, as in a container.

    Returns a note on the identity that commits then have; None if git has a user.
    """
    if os.environ.get("GIT_COMMITTER_EMAIL") or git(root, "config", "user.email"):
        return None
    for role in ("AUTHOR", "COMMITTER"):
        os.environ[f"GIT_{role}_NAME"], os.environ[f"GIT_{role}_EMAIL"] = "onestep", "onestep@localhost"
    return "git has no user here, so experiments are committed as onestep <onestep@localhost> (git config user.email)"
