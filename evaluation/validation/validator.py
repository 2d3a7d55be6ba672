"""What is looked at while a generator trains: pictures, and a distance to the validation split.

Its noise and its reference are its own, never those of the final figures.
"""

from pathlib import Path

import torch
from torch import Tensor

from dmd.generator.generator import Generator
from dmd.generator.pictures import image_grid, png
from dmd.storage.files import write_bytes
from evaluation.models.features import Extractor
from evaluation.statistics.frechet import Gaussian, frechet_distance

ROUNDS = 4  # times the validation labels are gone through, at most
IMAGES = 2000  # that are made each time, at most: training waits for them
BATCH = 256  # images at once, at most
ROWS, COLUMNS = 4, 100  # of the picture: a column per class or caption, if they are no more


class Validator:
    """Called every few turns with the averaged generator; writes a picture, returns the distance."""

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
        """real: uint8 images [N, C, H, W]; labels [M]: of the generator's own; conditions: how many it knows.

        batch_size: images that the generator makes at once, up to BATCH.
        """
        self.extractor, self.seed, self.folder = extractor, seed, folder
        self.labels = labels.repeat(ROUNDS)[:IMAGES]
        self.real = Gaussian.fit(torch.cat([extractor(part) for part in real.split(BATCH)]))
        self.columns, self.batch_size = min(conditions, COLUMNS), min(BATCH, batch_size)

    def __call__(self, generator: Generator, turn: int) -> dict[str, float]:
        sampler = generator.sampler()
        rng = torch.Generator().manual_seed(self.seed)
        features = torch.cat([self.extractor(sampler.images(part, rng)) for part in self.labels.split(self.batch_size)])
        shown = torch.arange(self.columns).repeat(ROWS)
        cells = torch.cat([sampler.images(part, rng) for part in shown.split(self.batch_size)]).numpy()
        write_bytes(
            self.folder / f"turn_{turn:06d}.png", png(image_grid(cells.reshape(ROWS, self.columns, *cells.shape[1:])))
        )
        return {"validation_fd": frechet_distance(Gaussian.fit(features), self.real)}
