"""The journal of a search, repaired after a kill or a full disk.

Optuna appends a line for each step and skips a last line that is cut off, but the next line is then appended to it, and
from there on every command fails. Its lock is a link, which a process that is killed leaves behind.
"""

import json
import os
from pathlib import Path

from dmd.errors import UserError

LOCK = ".lock"  # ending that Optuna adds to the name of the journal


def repair(journal: Path) -> str | None:
    """Remove a lock that was left behind, and a last line that is cut off; return a note on the line, or None.

    No other process may use the journal meanwhile. Raises UserError for a damaged line.
    """
    lock = journal.with_name(journal.name + LOCK)
    if lock.is_symlink():
        lock.unlink()
    if not journal.exists():
        return None
    content = journal.read_bytes()
    whole, newline, rest = content.rpartition(b"\n")
    for number, line in enumerate(whole.split(b"\n") if newline else (), 1):
        try:
            json.loads(line)
        except ValueError:
            raise UserError(
                f"{journal}: line {number} is damaged; move the file away to begin the search anew: DVC's cache keeps "
                "the experiments of its trials"
            ) from None
    if not rest:
        return None
    os.truncate(journal, len(content) - len(rest))
    return f"{journal.name}: the last line was cut off, as by a kill or a full disk, and is removed"
