"""`python -m evaluation.compare A B ...`: compare generators by the same measures, labels and noise.

Each source is a generator folder, a DVC revision or experiment, or models:/NAME/VERSION. Every other source is compared
with the first. A difference is significant if its 95 % interval, from paired replicates, excludes zero.
"""

import argparse
import sys
import tempfile
import time
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
from evaluation.evaluator.evaluator import Evaluator
from evaluation.metrics.measures import Direction, Measure, list_compared
from evaluation.metrics.schema import GeneratorMeasures, Scores
from evaluation.report.caption import describe_directions
from evaluation.report.html import embed_png, render_template
from evaluation.report.table import NFE, format_number
from evaluation.sources import find_generator
from evaluation.statistics.intervals import Interval, mean_interval

NO_DIFFERENCE = "no significant difference"


@dataclass(frozen=True)
class Candidate:
    """A generator with its measures, the scores of each replicate, and its picture as a PNG."""

    name: str
    sha256: str
    measures: GeneratorMeasures
    scores: list[Scores]
    picture: bytes


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m evaluation.compare", description=__doc__)
    parser.add_argument("sources", nargs="+", help="folders, DVC revisions or experiments, models:/NAME/VERSION")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="parameter file")
    parser.add_argument("--evaluator", type=Path, default=Path("artifacts/evaluator"), help="folder of the evaluator")
    parser.add_argument("--baseline", type=Path, default=Path("artifacts/baseline"), help="folder of the baseline")
    parser.add_argument("--out", type=Path, default=Path("reports/compare.html"), help="page to write")
    args = parser.parse_args(argv)
    try:
        if len(args.sources) < 2:
            raise UserError("give at least two generators")
        params = load_params(args.params)
        candidates = evaluate_sources(args.sources, params, args.evaluator, args.baseline)
        differences, subject = find_differences(candidates), f"Data: {params.data.source}. {time.strftime('%Y-%m-%d')}."
        write_text(args.out, render_comparison(candidates, differences, subject))
    except (UserError, OSError) as e:
        print(f"error: {' '.join(str(e).split())}", file=sys.stderr)
        return 1
    print(f"{tabulate(candidates).to_string()}\n\n{differences.to_string(index=False)}\n")
    print(f"{subject} {describe_directions(list_compared())}\n{args.out}")
    return 0


def evaluate_sources(sources: list[str], params: Params, evaluator_folder: Path, baseline: Path) -> list[Candidate]:
    """Evaluate each source with the same extractors, labels and noise. Raises UserError if a source is missing."""
    if not (evaluator_folder.is_dir() and baseline.is_dir()):
        raise UserError(f"{evaluator_folder} and {baseline} are needed to evaluate; run dvc repro baseline first")
    torch.set_num_threads(params.runtime.threads)
    device = choose_device(params.runtime.device, fallback=True)
    evaluator = Evaluator.load(evaluator_folder, baseline, params.extractors, device)
    candidates, cfg = [], params.evaluate
    with tempfile.TemporaryDirectory() as scratch:
        # Find all sources first, so that a misspelt name fails before minutes of evaluation.
        folders = [find_generator(source, Path(scratch) / str(i)) for i, source in enumerate(sources)]
        for source, folder in zip(sources, folders, strict=True):
            sampler, digest = load_generator(folder, device).sampler(), sha256(folder)
            measures, scores = evaluator.evaluate(sampler, cfg.seed, cfg.batch_size, digest)
            picture = _draw_picture(evaluator, sampler, cfg.batch_size)
            candidates.append(Candidate(source, digest, measures, scores, picture))
    return candidates


def _draw_picture(evaluator: Evaluator, sampler: Sampler, batch_size: int) -> bytes:
    cells = evaluator.generate_pictures(sampler, batch_size).numpy()
    return png(image_grid(cells.reshape(len(evaluator.reference.row_labels), -1, *cells.shape[1:])))


def tabulate(candidates: list[Candidate]) -> pd.DataFrame:
    """A row per generator with its measures, means over replicates."""
    rows = {}
    for candidate in candidates:
        row: dict[str, float] = {NFE: candidate.measures.nfe}
        for measure in list_compared():
            row |= {f"{measure.name} {k}".strip(): v for k, v in candidate.measures.values(measure.name).items()}
        rows[candidate.name] = row
    return pd.DataFrame.from_dict(rows, orient="index")


def find_differences(candidates: list[Candidate]) -> pd.DataFrame:
    """Difference of each generator from the first, by measure and extractor, with its 95 % interval and verdict."""
    first, rows = candidates[0], []
    for other in candidates[1:]:
        for measure in list_compared():
            for extractor in other.measures.values(measure.name):
                differences = _pair_replicates(first, other, measure.name, extractor)
                if not differences:
                    continue
                interval = mean_interval(differences)
                worse = other if (interval.low > 0) == (measure.direction == "lower") else first
                is_noise = _reaches_floor(worse, measure, extractor)
                rows.append(
                    {
                        "generator": other.name,
                        "measure": f"{measure.name} {extractor}".strip(),
                        "difference": sum(differences) / len(differences),
                        "low": interval.low,
                        "high": interval.high,
                        "verdict": NO_DIFFERENCE if is_noise else give_verdict(interval, measure.direction),
                    }
                )
    return pd.DataFrame(rows)


def _pair_replicates(first: Candidate, other: Candidate, measure: str, extractor: str) -> list[float]:
    """Differences of the two generators' values in each replicate; empty if one of them has no values."""
    sides = [[s.values(measure) for s in candidate.scores] for candidate in (first, other)]
    if any(extractor not in values for side in sides for values in side):
        return []
    return [b[extractor] - a[extractor] for a, b in zip(*sides, strict=True)]


def _reaches_floor(worse: Candidate, measure: Measure, extractor: str) -> bool:
    """Whether the worse generator is as good as a generator can be, by its interval: then none is better."""
    if measure.floor is None:
        return False
    return worse.measures.interval.values(measure.name)[extractor].low <= measure.floor


def give_verdict(interval: Interval, direction: Direction) -> str:
    """Verdict on a generator, from the interval of its difference from the first generator."""
    if interval.low <= 0 <= interval.high:
        return NO_DIFFERENCE
    return "better" if (interval.high < 0) == (direction == "lower") else "worse"


def render_comparison(candidates: list[Candidate], differences: pd.DataFrame, subject: str) -> str:
    """The page of a comparison. subject: the data, and the date."""
    table, measures = tabulate(candidates), {m.name: m for m in list_compared()}
    decimals = [measures[m].decimals if (m := str(c).partition(" ")[0]) in measures else 0 for c in table.columns]
    return render_template(
        "compare.html.j2",
        columns=list(table.columns),
        rows=[
            (name, [format_number(*cell) for cell in zip(row, decimals, strict=True)]) for name, row in table.iterrows()
        ],
        differences=differences.to_dict("records"),
        pictures=[(c.name, c.sha256, embed_png(c.picture)) for c in candidates],
        same="noise and labels" if any(c.measures.values("clip_score") for c in candidates) else "noise",
        directions=describe_directions(list_compared()),
        subject=subject,
        first=candidates[0].name,
        samples=candidates[0].measures.samples,
        replicates=candidates[0].measures.replicates,
    )


if __name__ == "__main__":
    sys.exit(main())
