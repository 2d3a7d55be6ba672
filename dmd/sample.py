"""`python -m dmd.sample --generator FOLDER --labels 0,1,2 --seed 0 --out grid.png`: writes images of a generator.

A generator that reads text takes `--prompt TEXT` in place of labels. `--engine` runs its network outside of PyTorch's
eager mode (dmd/engines).
"""

import argparse
import sys
from pathlib import Path

from dmd.debug import CommandParser, print_traceback
from dmd.errors import UserError

ENGINES = ("torch", "compile", "onnx", "openvino")  # those of dmd/engines, whose import takes seconds


def parse() -> argparse.Namespace:
    p = CommandParser(prog="python -m dmd.sample", description="Make images with a generator.")
    p.add_argument("--generator", type=Path, required=True, help="folder of the generator")
    p.add_argument("--labels", default="", help="comma-separated labels, numbers or names; default: each once")
    prompt = "text, for a generator that reads text, in place of a label; repeat the option for several"
    p.add_argument("--prompt", action="append", default=[], metavar="TEXT", help=prompt)
    p.add_argument("--images", type=int, default=1, help="images per label (default 1)")
    p.add_argument("--seed", type=int, default=0, help="seed of the noise (default 0)")
    p.add_argument("--scale", type=int, help="enlargement of the pixels (default 8 in a picture, 1 in a folder)")
    p.add_argument("--batch-size", type=int, default=64, help="images made at once (default 64)")
    p.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: the GPU if there is one")
    engine = "what runs the network (default torch); onnx and openvino are extras, for the CPU (docs/scaling.md)"
    half = "type of the network's weights (default fp32); bf16 needs half the memory, for large generators on a GPU"
    p.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help=half)
    p.add_argument("--engine", choices=ENGINES, default="torch", help=engine)
    out = "a picture (.png): a column per label, a row per image; or a new folder: a PNG per image and labels.csv"
    p.add_argument("--out", type=Path, required=True, help=out)
    return p.parse_args()


def main() -> None:
    """Run the command. A mistake ends it with one line and exit code 1."""
    args = parse()
    try:
        check(args)
        print(draw(args))
    except (UserError, ValueError, OSError) as e:
        print_traceback()
        sys.exit(f"error: {' '.join(str(e).split())}")


def check(args: argparse.Namespace) -> None:
    """Raise ValueError for arguments that are out of range, before anything heavy is imported."""
    scale = 1 if args.scale is None else args.scale
    if min(args.images, args.batch_size, scale) < 1 or args.seed < 0:
        raise ValueError("--images, --batch-size and --scale must be at least 1, --seed at least 0")
    if args.prompt and args.labels:
        raise ValueError("--prompt and --labels cannot be used together; leave one out")
    if not all(text.strip() for text in args.prompt):
        raise ValueError("--prompt: a text is empty; write one, or leave the option out")
    if args.precision != "fp32" and args.engine in ("onnx", "openvino"):
        raise ValueError(f"--precision: {args.engine} takes weights in float32 alone; use torch or compile, or fp32")
    if not args.out.suffix and args.out.exists():
        raise ValueError(f"--out: {args.out} exists; name a new folder, or a picture such as grid.png")


def draw(args: argparse.Namespace) -> str:
    """Write the images; return a line that describes them."""
    # These imports take seconds; `--help` and a wrong argument do not need them.
    from dmd.device import choose_device
    from dmd.generator.drawing import draw_folder, draw_grid, read_labels
    from dmd.generator.generator import load_generator
    from dmd.storage.files import write_image

    generator = load_generator(args.generator, choose_device(args.device), args.prompt, precision=args.precision)
    if args.engine != "torch":
        from dmd.engines.engine import with_engine

        generator = with_engine(generator, args.engine)
    labels = list(range(len(args.prompt))) or read_labels(args.labels, generator.classes)
    if args.out.suffix:
        picture = draw_grid(generator, labels, args.images, args.seed, args.scale or 8, args.batch_size)
        write_image(args.out, picture)
    else:
        draw_folder(generator, labels, args.images, args.seed, args.scale or 1, args.batch_size, args.out)
    images, passes = len(labels) * args.images, len(generator.times)
    return f"{args.out}: {images} images, seed {args.seed}, network passes per image: {passes}"


if __name__ == "__main__":
    main()
