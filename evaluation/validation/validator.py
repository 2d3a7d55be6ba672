"""Validation while a generator trains: pictures, and its distance to the validation split.

The distance is FD-infinity by each of the run's own judges: unlike the FD of a few hundred images, it does not depend
on their number. Noise, labels and real images are not those of the final measures.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from dmd.codecs.latents import vae_batch_size
from dmd.config import ValidationConfig
from dmd.data.splits import Split
from dmd.distillation.selection import Validation
from dmd.generator.generator import Generator
from dmd.generator.pictures import image_grid, png
from dmd.samplers.sampler import Sampler
from dmd.storage.files import write_bytes
from evaluation.models.extractors import Extractor, extract, load_extractors
from evaluation.models.names import EVALUATOR
from evaluation.statistics.frechet import Gaussian
from evaluation.validation.score import measure_draws

MAX_BATCH = 256
ROWS, MAX_COLUMNS = 4, 100  # cells of the picture; each class or caption has a column


class Validator:
    """Validates the averaged generator every few turns: writes a picture and returns the scores of the draws."""

    def __init__(
        self,
        judges: dict[str, Extractor],
        real: Tensor,
        labels: Tensor,
        conditions: int,
        cfg: ValidationConfig,
        seed: int,
        folder: Path,
        batch_size: int,
    ) -> None:
        """real: uint8 images [N, C, H, W]. labels: [M], from which those of the generated images are drawn.
        conditions: the generator's number of classes or captions. batch_size: number of images generated at once, at
        most MAX_BATCH.
        """
        self.judges, self.labels, self.cfg, self.seed, self.folder = judges, labels, cfg, seed, folder
        self.references = {k: Gaussian.fit(v) for k, v in extract(judges, real.split(MAX_BATCH)).items()}
        self.columns, self.batch_size = min(conditions, MAX_COLUMNS), min(MAX_BATCH, batch_size)

    def __call__(self, generator: Generator, turn: int) -> Validation:
        sampler = generator.sampler()
        self.draw_picture(sampler, self.folder / f"turn_{turn:06d}.png")
        scores, distances = measure_draws(self.extract_draws(sampler), self.references)
        return Validation(scores, {f"validation_fd_infinity_{judge}": value for judge, value in distances.items()})

    def extract_draws(self, sampler: Sampler) -> list[dict[str, Tensor]]:
        """Features [images, D] of each draw by each judge."""
        return [extract(self.judges, self._generate(sampler, draw)) for draw in range(self.cfg.draws)]

    def draw_picture(self, sampler: Sampler, path: Path) -> None:
        """Write a picture with ROWS images of each condition."""
        rng = noise_of(self.seed, "picture")
        cell_labels = torch.arange(self.columns).repeat(ROWS)
        cells = torch.cat([sampler.images(part, rng) for part in cell_labels.split(self.batch_size)]).numpy()
        write_bytes(path, png(image_grid(cells.reshape(ROWS, self.columns, *cells.shape[1:]))))

    def _generate(self, sampler: Sampler, draw: int) -> Iterator[Tensor]:
        """The images of a draw in batches: labels in the proportions of `labels`, and noise, equal at every call."""
        rng = noise_of(self.seed, draw)
        labels = self.labels[torch.randint(len(self.labels), (self.cfg.images,), generator=rng)]
        for part in labels.split(self.batch_size):
            yield sampler.images(part, rng)


def noise_of(seed: int, draw: int | str) -> torch.Generator:
    """Random numbers of a draw. The hash keeps them apart from those of training and of the final measures."""
    digest = hashlib.blake2b(f"validation {seed} {draw}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little"))


def new_validator(
    evaluator: Path,
    train: Split,
    real: Tensor,
    labels: Tensor,
    cfg: ValidationConfig,
    seed: int,
    folder: Path,
    device: torch.device,
) -> Validator:
    """A validator with the classifier and the CLIP model of the evaluator stage, or CLIP alone without classes.

    evaluator: the folder of that stage. train: the training split. The other arguments are those of Validator.
    """
    judges = load_extractors(evaluator, device)[1]
    if not train.class_names:
        judges = {EVALUATOR: judges[EVALUATOR]}  # the classifier of data without classes is not trained
    batch_size = vae_batch_size(*train.shape[1:])  # evaluate.batch_size would make it a parameter of stage `train`
    return Validator(judges, real, labels, len(train.conditions), cfg, seed, folder, batch_size)
