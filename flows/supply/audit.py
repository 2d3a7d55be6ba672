"""Asks pip-audit for known vulnerabilities of the packages, if its database can be reached."""

import shutil
import subprocess
from pathlib import Path

from flows.runtime.reach import find_silence
from flows.supply.packages import LOCK

DATABASE = "https://api.osv.dev"
TOOL = "pip-audit"  # not in the lock, since it would replace the environment's pip


def audit(root: Path) -> tuple[int, str]:
    """Return pip-audit's exit code (1: it found vulnerabilities) and report.

    If it is not installed, or if its database does not answer, the code is 0 and the report is a line that says so.
    """
    tool = shutil.which(TOOL)
    if tool is None:
        return 0, f"audit: not done, since {TOOL} is not installed; pipx install {TOOL}"
    if reason := find_silence(DATABASE, "/"):
        return (
            0,
            f"audit: not done, since the database {DATABASE} cannot be reached ({reason}); try again with a network",
        )
    options = ["--vulnerability-service", "osv", "--no-deps", "--disable-pip", "--progress-spinner", "off"]
    argv = [tool, "--requirement", str(root / LOCK), *options]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return done.returncode, f"{done.stdout}{done.stderr}".strip()
