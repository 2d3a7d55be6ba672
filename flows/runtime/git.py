"""Read-only git commands, and the identity of commits."""

import os
import subprocess
from pathlib import Path

from dmd.errors import UserError


def git(root: Path, *args: str) -> str | None:
    """Run git in `root` and return its output without surrounding spaces; None if git or the command fails.

    `git status` would also write what it has found out, under a lock that a kill leaves behind, and which then blocks
    the user's next commit.
    """
    try:
        words = ["git", "--no-optional-locks", *args]
        done = subprocess.run(words, cwd=root, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def read_head(root: Path) -> str:
    """Return the sha of the last commit; "" if there is none."""
    return git(root, "rev-parse", "HEAD") or ""


def show_file(root: Path, commit: str, name: str) -> bytes | None:
    """Return the content of a file below `root` in a commit; None if there is no such file or commit."""
    try:
        done = subprocess.run(["git", "show", f"{commit}:./{name}"], cwd=root, capture_output=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout if done.returncode == 0 else None


def check_owner(root: Path) -> None:
    """Raise UserError without git, or if it refuses to work in a folder of another user, as in a container."""
    try:
        done = subprocess.run(["git", "rev-parse"], cwd=root, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise UserError("git is not installed, and experiments are commits; install it") from None
    if "dubious ownership" in done.stderr:
        remedy = f"git config --global --add safe.directory '{root}'"
        raise UserError(f"git refuses to work in {root}, which belongs to another user; to trust it: {remedy}")


def ensure_identity(root: Path) -> str | None:
    """Let git and DVC commit in `root`, in this process and its children, also if git knows no user, as in a container.

    DVC has a git of its own, which does not read every configuration of git, so the identity goes by variables.
    Returns a note on the identity that commits then have; None if git has a user.
    """
    identity = {"NAME": git(root, "config", "user.name"), "EMAIL": git(root, "config", "user.email")}
    substitute = {"NAME": "onestep", "EMAIL": "onestep@localhost"}
    is_whole = True
    for role in ("AUTHOR", "COMMITTER"):
        for part, value in identity.items():
            is_whole &= bool(value or os.environ.get(f"GIT_{role}_{part}"))
            os.environ.setdefault(f"GIT_{role}_{part}", value or substitute[part])
    if is_whole:
        return None
    user = f"{os.environ['GIT_COMMITTER_NAME']} <{os.environ['GIT_COMMITTER_EMAIL']}>"
    return f"git has no user here, so experiments are committed as {user} (git config user.name, user.email)"
