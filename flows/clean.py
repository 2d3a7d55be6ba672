"""`python -m flows.clean [--yes]`: list files and model versions that are no longer needed; remove them with --yes.

Listed are old unfinished runs and stored features, objects of DVC's cache that no dvc.lock of any commit, branch, tag,
experiment or worktree names, and old versions of the registered model. Present and former champions, versions with an
alias, and the objects of both are never removed.
"""

import sys
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from dmd.debug import CommandParser
from flows.runtime.command import run_command

if TYPE_CHECKING:
    from flows.cleaning.item import Item

SHOWN = 10  # items of a kind that are listed by name


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = CommandParser(prog="python -m flows.clean", description=__doc__)
    parser.add_argument("--yes", action="store_true", help="remove what is listed")
    parser.add_argument("--days", type=float, default=7.0, help="age from which scratch counts as old (default 7)")
    parser.add_argument("--keep", type=int, default=10, help="newest versions of the model that stay (default 10)")
    args = parser.parse_args(argv)
    if args.days < 0 or args.keep < 1:
        parser.error("--days needs 0 or more, --keep 1 or more")
    return run_command(lambda: _run(Path.cwd(), args.yes, args.days, args.keep))


def _run(root: Path, is_sure: bool, days: float, keep: int) -> int:
    from dmd.storage.scratch import scratch_root
    from flows.cleaning.finding import find_items, keep_others_out
    from flows.services.servers import use_local_servers

    use_local_servers(root)
    with keep_others_out(root):
        items = find_items(root, scratch_root(), days, keep)
        print(_describe(items))
        if is_sure:
            for item in items:
                item.remove()
            print("removed")
        elif items:
            print("nothing is removed yet; --yes removes it")
    return 0


def _describe(items: "list[Item]") -> str:
    """Return a line for each kind with number and size, and the names of the first items."""
    from flows.plan.units import amount

    lines = []
    for kind, group in groupby(items, key=lambda item: item.kind):
        members = list(group)
        names = ", ".join(item.name for item in members[:SHOWN]) + ", ..." * (len(members) > SHOWN)
        lines.append(f"{kind}: {len(members)}, {amount(sum(item.size for item in members))} ({names})")
    return "\n".join(lines) or "nothing to remove"


if __name__ == "__main__":
    sys.exit(main())
