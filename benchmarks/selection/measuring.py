"""Figures of every kept generator: the validation measures that are compared, and the final figures.

Every measure reads the same images: those that the pipeline's own validation generates. The rule that it replaced has
images of its own, as it had them.
"""

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor

from benchmarks.selection.settings import DataSet
from benchmarks.selection.training import Inputs, load_kept
from dmd.config import Params, load_params
from dmd.data.splits import load_split
from dmd.samplers.sampler import Sampler
from dmd.storage.files import write_text
from evaluation.evaluator.evaluator import replicate_seed
from evaluation.features.extractors import Extractors
from evaluation.metrics.pairwise import cubic_kernel
from evaluation.models.extractors import extract
from evaluation.models.names import CLASSIFIER
from evaluation.statistics.frechet import Gaussian, extrapolate_frechet, frechet_distance
from evaluation.validation.score import combine
from evaluation.validation.validator import MAX_BATCH, Validator

FORMER_REPEATS, FORMER_IMAGES = 4, 2000  # of the former rule: repetitions of the validation labels, and most images


@dataclass(frozen=True)
class Measuring:
    """The judges, and the features of real images."""

    data_set: DataSet
    inputs: Inputs
    extractors: Extractors
    validator: Validator
    validation: dict[str, Tensor]  # features of the validation split by the run's own judges
    labels: Tensor  # of the validation split
    references: dict[str, Gaussian]  # of the training images, by every extractor

    @classmethod
    def load(cls, data_set: DataSet, params: Params, work: Path) -> "Measuring":
        """Load the judges and extract the features of real images."""
        inputs = Inputs.load(work)
        split = load_split(inputs.folder / "data", "validation")
        extractors = Extractors.load(inputs.folder / "evaluator", params.extractors, torch.device("cpu"))
        own = {name: extractors.networks[name] for name in ("classifier", "evaluator")}
        real, cfg = split.images[:], params.train.validation
        conditions = len(inputs.split.conditions)
        train = inputs.split.images[: data_set.reference_images].split(MAX_BATCH)
        return cls(
            data_set=data_set,
            inputs=inputs,
            extractors=extractors,
            validator=Validator(own, real, split.labels, conditions, cfg, 0, work, MAX_BATCH),
            validation=extract(own, real.split(MAX_BATCH)),
            labels=split.labels,
            references={k: Gaussian.fit(v) for k, v in extract(extractors.networks, train).items()},
        )

    def measure(self, file: Path) -> None:
        """Write the figures of a kept generator beside its weights; nothing is done if they are there."""
        if (out := file.with_suffix(".json")).exists():
            return
        sampler = load_kept(load_params(file.parent / "params.yaml"), self.inputs, file).sampler()
        draws = [extract(self.validator.extractors, self.validator.images(sampler, i)) for i in range(self.draws)]
        pooled = {judge: torch.cat([draw[judge] for draw in draws]) for judge in self.validation}
        gaussians = {judge: Gaussian.fit(real) for judge, real in self.validation.items()}
        distances = {k: judge.distances([draw[k] for draw in draws]) for k, judge in self.validator.judges.items()}
        figures = {
            "score": combine(distances),
            "kid": fmean(kernel_distance(x, self.validation[judge]) for judge, x in pooled.items()),
            "fd_infinity": fmean(
                extrapolate_frechet(x, gaussians[judge]) / gaussians[judge].cov.trace().item()
                for judge, x in pooled.items()
            ),
            "former": self._former(sampler, gaussians[CLASSIFIER]),
            "final": self._final(sampler),
        }
        write_text(out, json.dumps(figures))

    @property
    def draws(self) -> int:
        """Number of draws of a validation."""
        return self.validator.cfg.draws

    def _former(self, sampler: Sampler, reference: Gaussian) -> float:
        labels = self.labels.repeat(FORMER_REPEATS)[:FORMER_IMAGES]
        judges = {CLASSIFIER: self.extractors.networks[CLASSIFIER]}
        return frechet_distance(
            Gaussian.fit(extract(judges, sampler.batches(labels, MAX_BATCH, 0))[CLASSIFIER]), reference
        )

    def _final(self, sampler: Sampler) -> dict[str, float]:
        labels = self.inputs.split.labels[torch.arange(self.data_set.final_images) % len(self.inputs.split.labels)]
        features = extract(self.extractors.networks, sampler.batches(labels, MAX_BATCH, replicate_seed(2000, 0)))
        return {judge: frechet_distance(Gaussian.fit(x), self.references[judge]) for judge, x in features.items()}


def kernel_distance(x: Tensor, y: Tensor) -> float:
    """KID of x [M, D] and y [N, D], unbiased, as a share of the variance of y in the kernel's space."""
    x, y = x.double(), y.double()
    kernel = partial(cubic_kernel, squares=x.new_empty(0), dimensions=x.shape[1])
    xx, yy, xy = kernel(x @ x.T), kernel(y @ y.T), kernel(x @ y.T)
    within_x, within_y = _mean_of_pairs(xx), _mean_of_pairs(yy)
    return ((within_x + within_y - 2 * xy.mean()) / (yy.diagonal().mean() - within_y)).item()


def _mean_of_pairs(kernel: Tensor) -> Tensor:
    n = len(kernel)
    return (kernel.sum() - kernel.trace()) / (n * (n - 1))
