"""`python -m flows.push models:/NAME/3 owner/repo`: upload a registered generator to the Hugging Face hub.

It uploads the generator as a diffusers folder, a picture, and a card with figures, licence and lineage.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from dmd.debug import CommandParser
from flows.runtime.command import run_command


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = CommandParser(prog="python -m flows.push", description=__doc__)
    parser.add_argument("model", help="models:/NAME/VERSION or models:/NAME@ALIAS")
    parser.add_argument("repository", help="owner/name on the hub")
    parser.add_argument("--dry-run", action="store_true", help="list what would be uploaded; needs no token or network")
    parser.add_argument("--private", action="store_true", help="create a private repository")
    parser.add_argument("--update", action="store_true", help="add a commit to a repository that exists")
    args = parser.parse_args(argv)
    return run_command(lambda: _run(Path.cwd(), args))


def _run(root: Path, args: argparse.Namespace) -> int:
    # These imports take seconds; `--help` does not need them.
    from flows.services.servers import use_local_servers
    from flows.sharing.bundle import build_bundle, describe_bundle
    from flows.sharing.hub import address, check_name, check_ready, upload

    check_name(args.repository)
    if not args.dry_run:
        check_ready()
    use_local_servers(root)
    with tempfile.TemporaryDirectory() as scratch:
        folder = build_bundle(root, args.model, Path(scratch))
        print(describe_bundle(folder))
        if args.dry_run:
            print(f"nothing was uploaded; without --dry-run, these files go to {address(args.repository)}")
        else:
            print(upload(folder, args.repository, f"Upload {args.model}", args.private, args.update))
    return 0


if __name__ == "__main__":
    sys.exit(main())
