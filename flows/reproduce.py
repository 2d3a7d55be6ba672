"""`python -m flows.reproduce models:/NAME/3`: run the pipeline of a registered version again and compare the weights.

Exit code 0: identical weights; 1: different weights, or a failed run.
"""

import sys
from pathlib import Path

from dmd.debug import CommandParser
from flows.runtime.command import run_command


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = CommandParser(prog="python -m flows.reproduce", description=__doc__)
    parser.add_argument("model", help="models:/NAME/VERSION or models:/NAME@ALIAS")
    args = parser.parse_args(argv)
    return run_command(lambda: _run(Path.cwd(), args.model))


def _run(root: Path, model: str) -> int:
    from flows.pipeline.reproduction import reproduce  # the import takes a second; `--help` does not need it

    reproduction = reproduce(root, model)
    if reproduction.differences:
        print(f"{model}: different: {', '.join(reproduction.differences)}")
        return 1
    print(f"{model}: identical byte for byte (sha256 {reproduction.sha256})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
