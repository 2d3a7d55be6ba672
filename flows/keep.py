"""`python -m flows.keep experiments/ablations/NAME.yaml ROW`: keep a row of an ablation as a record, in records/NAME/.

The row's experiments must belong to the present commit. records/README.md lists the files of a record.
"""

import sys
from pathlib import Path

from dmd.debug import CommandParser
from flows.runtime.command import run_command


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = CommandParser(prog="python -m flows.keep", description=__doc__)
    parser.add_argument("file", type=Path, help="an ablation file, such as experiments/ablations/fashion_mnist.yaml")
    parser.add_argument("row", help="the name of a row of the file")
    args = parser.parse_args(argv)
    return run_command(lambda: _run(Path.cwd(), args.file, args.row))


def _run(root: Path, file: Path, row: str) -> int:
    from flows.ablation.record import keep  # the import takes a second; `--help` does not need it

    print(keep(root, file, row))
    return 0


if __name__ == "__main__":
    sys.exit(main())
