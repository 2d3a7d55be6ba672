"""`python -m evaluation.compare A B ...`: compare generators by the same measures, labels and noise.

Each source is a generator folder, a DVC revision or experiment, or models:/NAME/VERSION. Every other source is compared
with the first. A difference is significant if its 95 % interval, from paired replicates, excludes zero.
"""

import argparse
import sys
import time
from pathlib import Path

from dmd.debug import CommandParser, print_traceback
from dmd.errors import UserError


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = CommandParser(prog="python -m evaluation.compare", description=__doc__)
    parser.add_argument("sources", nargs="+", help="folders, DVC revisions or experiments, models:/NAME/VERSION")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="parameter file")
    parser.add_argument("--evaluator", type=Path, default=Path("artifacts/evaluator"), help="folder of the evaluator")
    parser.add_argument("--baseline", type=Path, default=Path("artifacts/baseline"), help="folder of the baseline")
    parser.add_argument("--out", type=Path, default=Path("reports/compare.html"), help="page to write")
    args = parser.parse_args(argv)
    try:
        print(compare(args))
    except (UserError, OSError) as e:
        print_traceback()
        print(f"error: {' '.join(str(e).split())}", file=sys.stderr)
        return 1
    return 0


def compare(args: argparse.Namespace) -> str:
    """Write the page; return the tables as text. Raises UserError if a source or a folder is missing."""
    if len(args.sources) < 2:
        raise UserError("give at least two generators")
    # These imports take seconds; `--help` and a wrong argument do not need them.
    from dmd.config import load_params
    from dmd.storage.files import write_text
    from evaluation.comparing.candidates import evaluate_sources
    from evaluation.comparing.differences import describe_marks, find_differences, tabulate
    from evaluation.comparing.page import render_comparison
    from evaluation.metrics.measures import list_compared
    from evaluation.report.caption import describe_directions

    params = load_params(args.params)
    candidates = evaluate_sources(args.sources, params, args.evaluator, args.baseline)
    differences, subject = find_differences(candidates), f"Data: {params.data.source}. {time.strftime('%Y-%m-%d')}."
    write_text(args.out, render_comparison(candidates, differences, subject))
    tables = f"{tabulate(candidates).to_string()}\n\n{differences.to_string(index=False)}"
    lines = f"{subject} {describe_directions(list_compared())}", describe_marks(candidates), args.out
    return "\n".join([tables, "", *map(str, lines)])


if __name__ == "__main__":
    sys.exit(main())
