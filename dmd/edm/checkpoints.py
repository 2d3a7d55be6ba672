"""`python -m dmd.edm.checkpoints FILE.pkl OUT`: converts a checkpoint of NVlabs' edm to a teacher folder.

The command prints the network. If diffusers has no such network, safetensors and its arguments are written instead.
"""

import sys
from pathlib import Path

from dmd.debug import CommandParser, print_traceback
from dmd.errors import PickleError


def main() -> int:
    parser = CommandParser(prog="python -m dmd.edm.checkpoints", description=__doc__)
    parser.add_argument("file", type=Path, help="checkpoint, such as edm-imagenet-64x64-cond-adm.pkl")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--key", default="ema", help="key of the network in the pickle")
    args = parser.parse_args()
    try:
        print(convert(args.file, args.out, args.key))
    except PickleError as e:
        print_traceback()
        print(f"error: {e}", file=sys.stderr)
        return 1
    return 0


def convert(file: Path, out: Path, key: str = "ema") -> str:
    """Convert the network under `key`; return lines that describe it. Raises PickleError if that is impossible."""
    # These imports take seconds; `--help` does not need them.
    from dmd.edm.conversion import describe, save
    from dmd.edm.pickles import read_checkpoint
    from dmd.storage.faults import refuse

    network = read_checkpoint(file, key)
    # What lies in a module's place in a foreign or damaged pickle may be of any type.
    with refuse(f"{file} could not be converted", "use a checkpoint of edm", PickleError):
        summary = save(network, out)
        return f"{describe(network)}\n{summary}"


if __name__ == "__main__":
    sys.exit(main())
