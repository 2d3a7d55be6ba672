"""`python -m flows.playground FOLDER`: a page that draws images with a generator, beside those of its teacher.

The page is open to this machine alone, and only with the link that the command prints.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from dmd.debug import CommandParser
from flows.runtime.command import run_command


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = CommandParser(prog="python -m flows.playground", description=__doc__)
    parser.add_argument("generator", help="a folder, models:/NAME/VERSION, or a revision of this repository")
    parser.add_argument("--teacher", type=Path, help="folder of the teacher (default: artifacts/teacher, if there)")
    parser.add_argument("--guidance", type=float, help="guidance scale of the teacher (default: that of params.yaml)")
    parser.add_argument("--port", type=int, default=7860, help="port on 127.0.0.1 (default 7860)")
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: a GPU if there is one"
    )
    args = parser.parse_args(argv)
    return run_command(lambda: _run(Path.cwd(), args))


def _run(root: Path, args: argparse.Namespace) -> int:
    from flows.playing.server import check_ready, serve

    check_ready(args.port)  # before the networks are loaded
    # These imports take seconds; `--help` and a wrong argument do not need them.
    from dmd.device import choose_device
    from evaluation.sources import find_generator
    from flows.playing.models import find_teacher, load_pair
    from flows.services.servers import use_local_servers

    use_local_servers(root)
    teacher, scale = find_teacher(root, args.teacher, args.guidance)
    with tempfile.TemporaryDirectory() as scratch:
        folder = find_generator(args.generator, Path(scratch))
        pair = load_pair(folder, teacher, scale, choose_device(args.device))
        print(f"student {args.generator}; teacher {teacher or 'none: --teacher names one'}", flush=True)
        serve(pair, args.port, Path(scratch))
    return 0


if __name__ == "__main__":
    sys.exit(main())
