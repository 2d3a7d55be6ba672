"""Validation while a generator trains: pictures, and its distance to the validation split by the run's own judges.

Noise and real images are not those of the final measures.
"""

from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor

from dmd.codecs.latents import vae_batch_size
from dmd.config import ValidationConfig
from dmd.data.shards import Images
from dmd.data.splits import Split
from dmd.distillation.selection import Validation
from dmd.generator.generator import Generator
from dmd.generator.pictures import image_grid, png
from dmd.progress import show_picture
from dmd.samplers.sampler import Sampler
from dmd.storage.files import write_bytes
from dmd.training.shared_work import ALONE, SharedWork
from evaluation.models.extractors import Extractor, extract, load_extractors
from evaluation.models.names import list_selecting
from evaluation.statistics.noise import noise_of
from evaluation.validation.score import Judge, combine

MAX_BATCH = 256
ROWS, MAX_COLUMNS = 4, 100  # cells of the picture; each class or caption has a column
MAX_PIXELS = 2**23  # pixels of all cells: 8 columns of 512x512


class Validator:
    """Validates the averaged generator every few turns: writes a picture and returns the scores of the draws."""

    def __init__(
        self,
        judges: dict[str, Extractor],
        real: Images | Tensor,
        labels: Tensor,
        conditions: int,
        cfg: ValidationConfig,
        seed: int,
        folder: Path,
        batch_size: int,
        work: SharedWork = ALONE,
    ) -> None:
        """real: uint8 images [N, C, H, W]. labels: [N], those that generated images have in the place of each real one.
        conditions: the generator's number of classes or captions. batch_size: number of images generated at once, at
        most MAX_BATCH. work: the processes that share the images; each of them calls the validator.
        """
        self.extractors, self.cfg, self.seed, self.folder, self.work = judges, cfg, seed, folder, work
        self.labels = [spread(labels[draw :: cfg.draws], cfg.images) for draw in range(cfg.draws)]
        features = extract(judges, work.own(real.split(MAX_BATCH)), work)
        self.judges = {name: Judge.fit(feature, cfg.draws) for name, feature in features.items()}
        most = max(1, MAX_PIXELS // (ROWS * real.shape[2] * real.shape[3]))
        self.columns, self.batch_size = min(conditions, MAX_COLUMNS, most), min(MAX_BATCH, batch_size)

    def __call__(self, generator: Generator, turn: int) -> Validation:
        sampler = generator.sampler()
        if self.work.is_main:
            self.draw_picture(sampler, self.folder / f"turn_{turn:06d}.png")
        draws = [extract(self.extractors, self.images(sampler, draw), self.work) for draw in range(self.cfg.draws)]
        distances = {name: judge.distances([draw[name] for draw in draws]) for name, judge in self.judges.items()}
        return Validation(combine(distances), {f"validation_fd_{name}": fmean(v) for name, v in distances.items()})

    def images(self, sampler: Sampler, draw: int) -> Iterator[Tensor]:
        """The images of a draw in batches, those of this process. Their labels and noise are equal at every call."""
        return sampler.batches(self.labels[draw], self.batch_size, noise_of("validation", self.seed, draw), self.work)

    def draw_picture(self, sampler: Sampler, path: Path) -> None:
        """Write a picture with ROWS images of each condition."""
        rng = noise_of("validation", self.seed, "picture")
        cell_labels = torch.arange(self.columns).repeat(ROWS)
        cells = torch.cat([sampler.images(part, rng) for part in cell_labels.split(self.batch_size)]).numpy()
        write_bytes(path, png(image_grid(cells.reshape(ROWS, self.columns, *cells.shape[1:]))))
        show_picture(path)


def spread(labels: Tensor, n: int) -> Tensor:
    """n labels in the proportions of `labels`: the classes of generated and real images must not differ by chance."""
    return labels.sort().values[torch.arange(n) * len(labels) // n]


def new_validator(
    evaluator: Path,
    train: Split,
    real: Images | Tensor,
    labels: Tensor,
    cfg: ValidationConfig,
    seed: int,
    folder: Path,
    device: torch.device,
    work: SharedWork = ALONE,
) -> Validator:
    """A validator with the classifier and the CLIP model of the evaluator stage, or CLIP alone without classes.

    evaluator: the folder of that stage. train: the training split. The other arguments are those of Validator.
    """
    loaded = load_extractors(evaluator, device)[1]
    selecting = list_selecting(bool(train.class_names))
    judges = {name: judge for name, judge in loaded.items() if name in selecting}
    batch_size = vae_batch_size(*train.shape[1:])  # evaluate.batch_size would make it a parameter of stage `train`
    return Validator(judges, real, labels, len(train.conditions), cfg, seed, folder, batch_size, work)
