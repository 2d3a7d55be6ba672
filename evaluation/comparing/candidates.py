"""The generators that are compared, evaluated with the same extractors, labels and noise."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open

from dmd.config import Params
from dmd.device import choose_device
from dmd.errors import EvaluatorError, UserError, quote
from dmd.features.facts import has_facts
from dmd.generator.generator import Generator, load_generator
from dmd.generator.pictures import image_grid, png
from dmd.samplers.sampler import Sampler
from dmd.storage.faults import refuse
from dmd.storage.files import sha256
from evaluation.evaluator.evaluator import Evaluator
from evaluation.features.seen import find_seen
from evaluation.metrics.marks import format_mark
from evaluation.metrics.reference import Reference
from evaluation.metrics.schema import Baseline, GeneratorMeasures, Scores, read_model
from evaluation.models.names import list_selecting
from evaluation.sources import SourceError, find_generator

OF_ONE_DATA_SET = "compare generators of one data set"


@dataclass(frozen=True)
class Candidate:
    """A generator with its measures, the scores of each replicate, its picture as a PNG, and the marks of judges."""

    name: str
    sha256: str
    measures: GeneratorMeasures
    scores: list[Scores]
    picture: bytes
    marks: str = ""  # judges that are not independent of its training, in words


def evaluate_sources(sources: list[str], params: Params, evaluator_folder: Path, baseline: Path) -> list[Candidate]:
    """Evaluate each source with the same extractors, labels and noise.

    Raises UserError if a source is missing, or SourceError if its images or conditions are not those of the baseline.
    """
    if not (evaluator_folder.is_dir() and baseline.is_dir()):
        raise UserError(f"{evaluator_folder} and {baseline} are needed to evaluate; run dvc repro baseline first")
    torch.set_num_threads(params.runtime.threads)
    device = choose_device(params.runtime.device, fallback=True)
    evaluator = Evaluator.load(evaluator_folder, baseline, params.extractors, device)
    candidates, cfg = [], params.evaluate
    with tempfile.TemporaryDirectory() as scratch:
        # All sources come first, so that a misspelt name or a wrong generator fails before minutes of evaluation. Each
        # is loaded again afterwards: several generators may not fit into memory at once.
        folders = [find_generator(source, Path(scratch) / str(i)) for i, source in enumerate(sources)]
        shape = read_image_shape(baseline)
        for source, folder in zip(sources, folders, strict=True):
            check_fits(source, _load(source, folder, device), evaluator.reference, shape)
        of_teacher = read_model(Baseline, baseline / "baseline.json")
        for source, folder in zip(sources, folders, strict=True):
            sampler, digest = _load(source, folder, device).sampler(), sha256(folder)
            measures, scores = evaluator.evaluate(sampler, cfg.seed, cfg.batch_size, digest)
            picture = _draw_picture(evaluator, sampler, cfg.batch_size)
            marks = describe_marks(folder, of_teacher, evaluator_folder, bool(evaluator.reference.class_names))
            candidates.append(Candidate(source, digest, measures, scores, picture, marks))
    return candidates


def describe_marks(generator: Path, baseline: Baseline, evaluator: Path, has_classes: bool) -> str:
    """The marked judges of a generator's folder in words, "" if there are none. has_classes: of the data.

    A folder of an earlier version does not say which frozen networks the generator learned from.
    """
    seen, selects = find_seen(generator, baseline, evaluator), list_selecting(has_classes)
    names = [*baseline.provenance.extractors, *baseline.provenance.judges]
    marked = [name + mark for name in names if (mark := format_mark(name, seen, selects))]
    unknown = [] if has_facts(generator) else ["the frozen networks that it learned from are not known"]
    return ", ".join([*marked, *unknown])


def read_image_shape(baseline: Path) -> tuple[int, ...]:
    """(C, H, W) of the images in the folder of a baseline. Raises EvaluatorError if its pictures cannot be read."""
    file = baseline / "pictures.safetensors"
    with refuse(f"{file} cannot be read", "run dvc repro baseline", EvaluatorError), safe_open(file, "pt") as pictures:
        return tuple(pictures.get_slice(next(iter(pictures.keys()))).get_shape()[1:])


def check_fits(source: str, generator: Generator, reference: Reference, shape: tuple[int, ...]) -> None:
    """Raise SourceError unless a generator makes images (C, H, W) of the reference's shape for its conditions.

    Label i must mean the same class or caption on both sides. A generator without conditions fits any.
    """
    if (own := generator.codec.image_shape(generator.shape)) != shape:
        raise SourceError(f"{source}: it makes images of shape {own}, but the baseline has {shape}; {OF_ONE_DATA_SET}")
    ours, theirs = generator.classes, tuple(reference.class_names or reference.captions)
    if not ours or ours == theirs:
        return
    if len(ours) != len(theirs):
        raise SourceError(
            f"{source}: it has {len(ours)} classes or captions, but the baseline {len(theirs)}; {OF_ONE_DATA_SET}"
        )
    label = next(i for i, names in enumerate(zip(ours, theirs, strict=True)) if names[0] != names[1])
    raise SourceError(
        f"{source}: its label {label} is {quote(ours[label])!r}, but that of the baseline {quote(theirs[label])!r}; "
        f"{OF_ONE_DATA_SET}"
    )


def _load(source: str, folder: Path, device: torch.device) -> Generator:
    with refuse(f"{source} could not be loaded as a generator", "export it again", SourceError):
        return load_generator(folder, device)


def _draw_picture(evaluator: Evaluator, sampler: Sampler, batch_size: int) -> bytes:
    cells = evaluator.generate_pictures(sampler, batch_size).numpy()
    return png(image_grid(cells.reshape(len(evaluator.reference.row_labels), -1, *cells.shape[1:])))
