"""The one judge of teacher, student and held-out images: the same measures against the same reference."""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor

from dmd.data import Split
from dmd.optim import step_rng
from dmd.progress import Progress
from dmd.sampling import Sampler
from evaluation.distances import Gaussian, frechet_distance, kernel_distance, precision_recall
from evaluation.features import ClipJudge, Extractor, extract, load_extractors
from evaluation.reference import Reference
from evaluation.schema import Interval, Intervals, Measures, RealMeasures


@dataclass(frozen=True)
class Judge:
    """The evaluator's networks and the reference they judge against."""

    clip: ClipJudge
    extractors: dict[str, Extractor]
    reference: Reference

    @classmethod
    def load(cls, evaluator: Path, baseline: Path, device: torch.device) -> "Judge":
        """From the folders of the evaluator and baseline stages."""
        return cls(*load_extractors(evaluator, device), Reference.load(baseline))

    def judge(self, sampler: Sampler, seed: int, batch_size: int) -> Measures:
        """Every draw of the plan by every measure; the noise of draw d depends on (seed, d) only."""
        ref = self.reference
        captions = self._captions(ref.labels) if sampler.conditional else None
        draws = []
        with Progress(sampler.name, ref.draws * len(ref.labels), "images") as progress:
            for draw in range(ref.draws):
                batches = sampler.batches(ref.labels, batch_size, draw_seed(seed, draw))
                draws.append(self._score(_counted(batches, progress), captions))
        return summarise(draws, sampler.nfe, len(ref.labels))

    def judge_real(self, split: Split) -> RealMeasures:
        """The floor: held-out images by the same measures."""
        scores = self._score([split.images], self.clip.caption_features(split.captions))
        assert scores.clip_score is not None
        return RealMeasures(
            clip_score=scores.clip_score,
            fd=scores.fd,
            precision=scores.precision,
            recall=scores.recall,
            samples=len(split.images),
        )

    def pictures(self, sampler: Sampler) -> Tensor:
        """The pictures' cells, uint8 [N, C, H, W]; every sampler gets the same labels and noise."""
        return sampler.images(self.reference.picture_labels, step_rng(self.reference.picture_seed, 0))

    def _captions(self, labels: Tensor) -> Tensor:
        return self.clip.caption_features([self.reference.captions[i] for i in labels.tolist()])

    def _score(self, batches: Iterable[Tensor], captions: Tensor | None) -> "Scores":
        return score(extract(self.extractors, batches), captions, self.reference)


def _counted(batches: Iterable[Tensor], progress: Progress) -> Iterable[Tensor]:
    for images in batches:
        yield images
        progress.update(len(images))


def draw_seed(seed: int, draw: int) -> int:
    """The noise seed of a draw."""
    return seed * 1_000_003 + draw


@dataclass(frozen=True)
class Scores:
    """The measures of one set of images."""

    fd: dict[str, float]
    kid: dict[str, float]
    precision: dict[str, float]
    recall: dict[str, float]
    clip_score: float | None


def clip_score(image_embeds: Tensor, text_embeds: Tensor) -> float:
    """100 x cosine, no less than 0 (Hessel et al. 2021, with torchmetrics' weight), mean over pairs [N, D]."""
    return (100 * F.cosine_similarity(image_embeds.double(), text_embeds.double())).clamp_min(0).mean().item()


def score(features: dict[str, Tensor], captions: Tensor | None, ref: Reference) -> Scores:
    """Judge one set of images by its features; captions [N, D] are its conditions' text embeddings, or None."""
    pr = {k: precision_recall(v, ref.features[k], ref.radii[k], ref.neighbours) for k, v in features.items()}
    return Scores(
        fd={k: frechet_distance(Gaussian.fit(v), ref.gaussians[k]) for k, v in features.items()},
        kid={k: kernel_distance(v, ref.features[k]) for k, v in features.items()},
        precision={k: p for k, (p, _) in pr.items()},
        recall={k: r for k, (_, r) in pr.items()},
        clip_score=None if captions is None else clip_score(features["evaluator"], captions),
    )


def summarise(draws: list[Scores], nfe: int, samples: int) -> Measures:
    """The mean over draws, and for the distance a 95 % interval of that mean (Student's t)."""

    def mean(name: str) -> dict[str, float]:
        return {k: statistics.fmean(getattr(d, name)[k] for d in draws) for k in draws[0].fd}

    scores = [d.clip_score for d in draws]
    return Measures(
        nfe=nfe,
        fd=mean("fd"),
        kid=mean("kid"),
        precision=mean("precision"),
        recall=mean("recall"),
        clip_score=None if None in scores else statistics.fmean(s for s in scores if s is not None),
        samples=samples,
        draws=len(draws),
        interval=Intervals(fd={k: mean_interval([d.fd[k] for d in draws]) for k in draws[0].fd}),
    )


def mean_interval(values: list[float]) -> Interval:
    """95 % interval of the mean of independent values, at least two."""
    half = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    mean = statistics.fmean(values)
    return Interval(low=mean - float(half), high=mean + float(half))
