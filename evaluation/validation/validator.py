"""Validation while a generator trains: pictures, and the Fréchet distance to the validation split.

Its noise and reference are not those of the final measures.
"""

from pathlib import Path

import torch
from torch import Tensor

from dmd.codecs.latents import vae_batch_size
from dmd.data.splits import Split
from dmd.generator.generator import Generator
from dmd.generator.pictures import image_grid, png
from dmd.storage.files import write_bytes
from evaluation.models.extractors import Extractor, load_extractors
from evaluation.statistics.frechet import Gaussian, frechet_distance

MAX_REPEATS = 4  # repetitions of the validation labels
MAX_IMAGES = 2000  # images generated for each validation, while training waits
MAX_BATCH = 256
ROWS, MAX_COLUMNS = 4, 100  # cells of the picture; each class or caption has a column


class Validator:
    """Validates the averaged generator every few turns: writes a picture and returns the distance."""

    def __init__(
        self,
        extractor: Extractor,
        real: Tensor,
        labels: Tensor,
        conditions: int,
        seed: int,
        folder: Path,
        batch_size: int,
    ) -> None:
        """real: uint8 images [N, C, H, W]. labels: [M] of the generated images. conditions: the generator's number of
        classes or captions. batch_size: number of images generated at once, at most MAX_BATCH.
        """
        self.extractor, self.seed, self.folder = extractor, seed, folder
        self.labels = labels.repeat(MAX_REPEATS)[:MAX_IMAGES]
        self.real = Gaussian.fit(torch.cat([extractor(part) for part in real.split(MAX_BATCH)]))
        self.columns, self.batch_size = min(conditions, MAX_COLUMNS), min(MAX_BATCH, batch_size)

    def __call__(self, generator: Generator, turn: int) -> dict[str, float]:
        sampler = generator.sampler()
        rng = torch.Generator().manual_seed(self.seed)
        features = torch.cat([self.extractor(sampler.images(part, rng)) for part in self.labels.split(self.batch_size)])
        cell_labels = torch.arange(self.columns).repeat(ROWS)
        cells = torch.cat([sampler.images(part, rng) for part in cell_labels.split(self.batch_size)]).numpy()
        grid = image_grid(cells.reshape(ROWS, self.columns, *cells.shape[1:]))
        write_bytes(self.folder / f"turn_{turn:06d}.png", png(grid))
        return {"validation_fd": frechet_distance(Gaussian.fit(features), self.real)}


def new_validator(
    evaluator: Path, train: Split, real: Tensor, labels: Tensor, seed: int, folder: Path, device: torch.device
) -> Validator:
    """A validator with the classifier of the evaluator stage, or its CLIP model if the data have no classes.

    evaluator: the folder of that stage. train: the training split. The other arguments are those of Validator.
    """
    extractor = load_extractors(evaluator, device)[1]["classifier" if train.class_names else "evaluator"]
    batch_size = vae_batch_size(*train.shape[1:])  # evaluate.batch_size would make it a parameter of stage `train`
    return Validator(extractor, real, labels, len(train.conditions), seed, folder, batch_size)
