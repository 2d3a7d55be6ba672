"""A toy sampler, and an evaluator that needs no training."""

import torch
from torch import Tensor

from dmd.generator.pictures import image_grid, png
from dmd.samplers.sampler import Sampler
from evaluation.comparing.candidates import Candidate
from evaluation.evaluator.evaluator import Evaluator
from evaluation.features.extractors import Extractors
from evaluation.features.store import FeatureStore
from evaluation.metrics.reference import Reference
from evaluation.models.classifier import Classifier
from tests.helpers.networks import CPU


def random_features(n: int, d: int, seed: int, shift: float = 0.0, scale: float = 1.0) -> Tensor:
    """Correlated normal features [n, d], shifted and scaled; every seed has the same covariance before scaling."""
    rng = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=torch.Generator().manual_seed(99)) / d**0.5
    return (torch.randn(n, d, generator=rng) @ mix) * scale + shift


def sampler(shift: float = 0.0, conditional: bool = True) -> Sampler:
    def make(z: Tensor, cond: Tensor | None) -> Tensor:
        level = 0 if cond is None else (cond.float()[:, None, None, None] - 4.5) / 9
        return 0.2 * z + level + shift

    return Sampler("toy", 1, (1, 8, 8), conditional, CPU, make)


class FakeClip:
    """A stand-in for CLIP's text tower: caption "i" is the unit vector of axis i."""

    def caption_features(self, captions: list[str]) -> Tensor:
        return torch.eye(64)[[int(c) for c in captions]]


def toy_evaluator(store: FeatureStore | None = None) -> Evaluator:
    torch.manual_seed(0)
    net = Classifier(1, 4, 64, 10).eval()
    labels = torch.arange(300) % 10
    real, held_out = (torch.cat(list(sampler().batches(labels, 100, s))) for s in (77, 78))
    reference = Reference(
        splits=["train"],
        features={"evaluator": net(real), "classifier": net(real)},
        held_out={"evaluator": net(held_out), "classifier": net(held_out)},
        real_labels=labels,
        labels=labels,
        real_sources=torch.arange(300),
        sources=torch.arange(300),
        class_names=[str(i) for i in range(10)],
        captions=[str(i) for i in range(10)],
        replicates=3,
        neighbours=3,
        picture_labels=labels[:20].clone(),
        picture_seed=1,
    )
    extractors: dict = {"evaluator": net, "classifier": net}
    names = dict.fromkeys(extractors, "x")
    return Evaluator(Extractors(FakeClip(), extractors, names, names, {}), reference, store)  # type: ignore[arg-type]


def candidate(name: str, shift: float) -> Candidate:
    measures, scores = toy_evaluator().evaluate(sampler(shift), 5, 64)
    cells = toy_evaluator().generate_pictures(sampler(shift), 64).numpy()
    return Candidate(name, "0" * 64, measures, scores, png(image_grid(cells.reshape(10, -1, 1, 8, 8))))
