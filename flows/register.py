"""`python -m flows.register`: register the workspace's generator in MLflow, or change which version is champion."""

import sys
from pathlib import Path

from dmd.debug import CommandParser
from flows.runtime.command import run_command


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = CommandParser(prog="python -m flows.register", description=__doc__)
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--rollback", action="store_true", help="withdraw the champion and restore its predecessor")
    action.add_argument("--promote", metavar="VERSION", help="make VERSION champion; `auto` lets the gate choose again")
    args = parser.parse_args(argv)
    return run_command(lambda: _run(Path.cwd(), args.rollback, args.promote))


def _run(root: Path, is_rollback: bool, version: str | None) -> int:
    # These imports take seconds; `--help` does not need them.
    from flows.registry.versions import register_workspace, restore_champion, set_champion
    from flows.services.servers import use_local_servers

    use_local_servers(root)
    if is_rollback:
        print(restore_champion(root))
    elif version:
        print(set_champion(root, version))
    else:
        print(register_workspace(root))
    return 0


if __name__ == "__main__":
    sys.exit(main())
