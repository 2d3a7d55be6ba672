"""The generators that are compared, evaluated with the same extractors, labels and noise."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

from dmd.config import Params
from dmd.device import choose_device
from dmd.errors import UserError
from dmd.generator.generator import load_generator
from dmd.generator.pictures import image_grid, png
from dmd.samplers.sampler import Sampler
from dmd.storage.files import sha256
from evaluation.evaluator.evaluator import Evaluator
from evaluation.metrics.schema import GeneratorMeasures, Scores
from evaluation.sources import find_generator


@dataclass(frozen=True)
class Candidate:
    """A generator with its measures, the scores of each replicate, and its picture as a PNG."""

    name: str
    sha256: str
    measures: GeneratorMeasures
    scores: list[Scores]
    picture: bytes


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
