"""`python -m evaluation.compare A B ...`: generators judged side by side, with the same noise; which one is better?

Each is a generator folder, a DVC revision or experiment, or models:/NAME/VERSION. The first is what the others are
compared with. A difference counts where its 95 % interval, from paired draws, leaves zero out.
"""

import argparse
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch

from dmd.config import Params, load_params
from dmd.device import choose_device
from dmd.errors import UserError
from dmd.generator.generator import load_generator
from dmd.generator.pictures import image_grid, png
from dmd.samplers.sampler import Sampler
from dmd.storage.files import sha256, write_text
from evaluation.evaluator.evaluator import Judge, Panel
from evaluation.evaluator.reference import Reference
from evaluation.features.store import FeatureStore
from evaluation.metrics.schema import Measures, Scores
from evaluation.report.page import page, png_source
from evaluation.report.table import number
from evaluation.sources import find_generator
from evaluation.statistics.intervals import Interval, mean_interval

LOWER, HIGHER = "lower is better", "higher is better"
MEASURES = {"fd": LOWER, "kid": LOWER, "precision": HIGHER, "recall": HIGHER, "density": HIGHER, "coverage": HIGHER}
ALONE = {"clip_score": HIGHER, "accuracy": HIGHER}  # measures without an extractor


@dataclass(frozen=True)
class Judged:
    """One generator with its measures, draw by draw, and its pictures as a PNG."""

    name: str
    sha256: str
    measures: Measures
    draws: list[Scores]
    picture: bytes


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m evaluation.compare", description=__doc__)
    parser.add_argument("sources", nargs="+", help="folders, DVC revisions or experiments, models:/NAME/VERSION")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="the file of numbers")
    parser.add_argument("--evaluator", type=Path, default=Path("artifacts/evaluator"))
    parser.add_argument("--baseline", type=Path, default=Path("artifacts/baseline"), help="the reference, and the plan")
    parser.add_argument("--out", type=Path, default=Path("reports/compare.html"), help="the page to write")
    args = parser.parse_args(argv)
    try:
        if len(args.sources) < 2:
            raise UserError("give at least two generators")
        judged = judge_all(args.sources, load_params(args.params), args.evaluator, args.baseline)
        differences = compare(judged)
        write_text(args.out, render(judged, differences))
    except (UserError, OSError) as e:
        print(f"error: {' '.join(str(e).split())}", file=sys.stderr)
        return 1
    print(f"{summary(judged).to_string()}\n\n{differences.to_string(index=False)}\n\n{args.out}")
    return 0


def judge_all(sources: list[str], params: Params, evaluator: Path, baseline: Path) -> list[Judged]:
    """Each source by the same panel, labels and noise. Raises UserError for one that cannot be had."""
    if not (evaluator.is_dir() and baseline.is_dir()):
        raise UserError(f"{evaluator} and {baseline} are needed to judge; run dvc repro baseline first")
    torch.set_num_threads(params.runtime.threads)
    device = choose_device(params.runtime.device, fallback=True)
    panel = Panel.load(evaluator, params.extractors, device)
    judge = Judge(panel, Reference.load(baseline), FeatureStore.default(panel.sha256))
    judged, batch_size = [], params.evaluate.batch_size
    with tempfile.TemporaryDirectory() as scratch:
        # All are found before any is judged: a misspelt name must not cost minutes.
        folders = [find_generator(source, Path(scratch) / str(i)) for i, source in enumerate(sources)]
        for source, folder in zip(sources, folders, strict=True):
            sampler, digest = load_generator(folder, device).sampler(), sha256(folder)
            measures, draws = judge.judge(sampler, params.evaluate.seed, batch_size, digest)
            judged.append(Judged(source, digest, measures, draws, _picture(judge, sampler, batch_size)))
    return judged


def _picture(judge: Judge, sampler: Sampler, batch_size: int) -> bytes:
    cells = judge.pictures(sampler, batch_size).numpy()
    return png(image_grid(cells.reshape(len(judge.reference.shown), -1, *cells.shape[1:])))


def summary(judged: list[Judged]) -> pd.DataFrame:
    """A row per generator: its measures, each the mean over draws."""
    rows = {}
    for one in judged:
        m = one.measures
        row: dict[str, float | None] = {"NFE": m.nfe}
        row |= {f"{kind} {k}": v for kind in MEASURES for k, v in getattr(m, kind).items()}
        rows[one.name] = row | {kind: getattr(m, kind) for kind in ALONE}
    return pd.DataFrame.from_dict(rows, orient="index")


def compare(judged: list[Judged]) -> pd.DataFrame:
    """Each generator but the first, measure by measure, against the first: difference, 95 % interval, verdict."""
    first, rows = judged[0], []
    for other in judged[1:]:
        for kind, direction in (MEASURES | ALONE).items():
            for name, pairs in _paired(first, other, kind).items():
                interval = mean_interval([b - a for a, b in pairs])
                rows.append(
                    {
                        "generator": other.name,
                        "measure": f"{kind} {name}".strip(),
                        "difference": sum(b - a for a, b in pairs) / len(pairs),
                        "low": interval.low,
                        "high": interval.high,
                        "verdict": verdict(interval, direction),
                    }
                )
    return pd.DataFrame(rows)


def _paired(first: Judged, other: Judged, kind: str) -> dict[str, list[tuple[float, float]]]:
    """By extractor (or by "", without one), the two values of each draw; nothing where one side has none."""
    sides = [[getattr(s, kind) for s in one.draws] for one in (first, other)]
    if any(value is None for side in sides for value in side):
        return {}
    if kind in ALONE:
        return {"": list(zip(*sides, strict=True))}
    return {k: [(a[k], b[k]) for a, b in zip(*sides, strict=True)] for k in sides[0][0]}


def verdict(interval: Interval, direction: str) -> str:
    """better or worse than the first only outside the noise."""
    if interval.low <= 0 <= interval.high:
        return "no difference seen"
    return "better" if (interval.high < 0) == (direction == LOWER) else "worse"


def render(judged: list[Judged], differences: pd.DataFrame) -> str:
    """One self-contained page."""
    table = summary(judged)
    return page(
        "compare.html.j2",
        columns=list(table.columns),
        rows=[(name, [number(str(c), v) for c, v in row.items()]) for name, row in table.iterrows()],
        differences=differences.to_dict("records"),
        judged=[(one.name, one.sha256, png_source(one.picture)) for one in judged],
        first=judged[0].name,
        samples=judged[0].measures.samples,
        draws=judged[0].measures.draws,
    )


if __name__ == "__main__":
    sys.exit(main())
