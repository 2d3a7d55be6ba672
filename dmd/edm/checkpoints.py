"""`python -m dmd.edm.checkpoints FILE.pkl OUT`: converts a checkpoint of NVlabs' edm to a teacher folder.

The command prints the network. If diffusers has no such network, safetensors and its arguments are written instead.
"""

import argparse
import sys
from pathlib import Path

from dmd.errors import PickleError


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m dmd.edm.checkpoints", description=__doc__)
    parser.add_argument("file", type=Path, help="checkpoint, such as edm-imagenet-64x64-cond-adm.pkl")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--key", default="ema", help="key of the network in the pickle")
    args = parser.parse_args()
    # These imports take seconds; `--help` does not need them.
    from dmd.edm.conversion import describe, save
    from dmd.edm.pickles import read_checkpoint

    try:
        network = read_checkpoint(args.file, args.key)
        summary = save(network, args.out)
    except PickleError as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    print(f"{describe(network)}\n{summary}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
