"""The evaluator of teacher, student and held-out images: the same measures against the same reference."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dmd.config import ExtractorsConfig
from dmd.data.splits import Split
from dmd.progress import Progress
from dmd.samplers.sampler import Sampler
from dmd.training.optim import step_rng
from evaluation.evaluator.prefetch import prefetch
from evaluation.features.extractors import Extractors
from evaluation.features.store import FeatureStore
from evaluation.metrics.comparison import Conditions
from evaluation.metrics.measures import MEASURES
from evaluation.metrics.reference import Reference, hash_tensors
from evaluation.metrics.schema import GeneratorMeasures, RealMeasures, Scores
from evaluation.metrics.scores import compute_scores, jackknife_scores, summarise
from evaluation.models.extractors import extract
from evaluation.statistics.intervals import GROUPS


@dataclass(frozen=True)
class Evaluator:
    """Feature extractors, the reference, and an optional store with features of earlier runs."""

    extractors: Extractors
    reference: Reference
    store: FeatureStore | None = None

    @classmethod
    def load(cls, folder: Path, baseline: Path, cfg: ExtractorsConfig, device: torch.device) -> "Evaluator":
        """Load the folders of the evaluator and of the baseline stage, with the project's own store."""
        extractors = Extractors.load(folder, cfg, device)
        return cls(extractors, Reference.load(baseline), FeatureStore.default(extractors.sha256))

    def evaluate(
        self, sampler: Sampler, seed: int, batch_size: int, source: str = ""
    ) -> tuple[GeneratorMeasures, list[Scores]]:
        """Return the measures of a sampler over all replicates of the plan, and the scores of each replicate.

        The noise of replicate r depends on (seed, r) only. If the plan has a single replicate, the intervals come from
        the jackknife and the scores are its pseudo-values. source: identity of the sampler's network; without it, the
        store is not used.
        """
        reference = self.reference
        conditions = self._conditions(reference.labels) if sampler.conditional else None
        features = []
        with Progress(sampler.name, reference.replicates * len(reference.labels), "images") as progress:
            for replicate in range(reference.replicates):
                noise = replicate_seed(seed, replicate)
                features.append(self._extract(sampler, noise, batch_size, source, progress))
        if len(features) == 1:
            scores = jackknife_scores(self._score(features[0], conditions, source, GROUPS))
        else:
            scores = [self._score(f, conditions, source)[0] for f in features]
        return summarise(scores, features, reference, sampler.nfe, seed), scores

    def evaluate_real(self, split: Split) -> RealMeasures:
        """Measures of held-out real images: the floor that generators are compared with."""
        captions = self.extractors.clip.caption_features(split.captions)
        conditions = Conditions(split.labels, captions, self.extractors.classify)
        scores = compute_scores(self.reference.held_out, conditions, self.reference)[0]
        values = {m.name: scores.values(m.name) for m in MEASURES.values() if m.for_real_images}
        return RealMeasures(
            samples=len(split.labels),
            **{name: v if MEASURES[name].per_extractor else v.get("") for name, v in values.items()},
        )

    def generate_pictures(self, sampler: Sampler, batch_size: int) -> Tensor:
        """Cells uint8 [N, C, H, W] of the pictures; every sampler gets the same labels and noise."""
        rng = step_rng(self.reference.picture_seed, 0)
        return torch.cat([sampler.images(part, rng) for part in self.reference.picture_labels.split(batch_size)])

    def _score(
        self, features: dict[str, Tensor], conditions: Conditions | None, source: str, groups: int = 0
    ) -> list[Scores]:
        """Compute the scores, or read them from the store by the hashes of the features and of the reference."""
        reference = self.reference

        def compute() -> list[Scores]:
            return compute_scores(features, conditions, reference, groups, reference.sources)

        if self.store is None or not source:
            return compute()
        key = {
            "features": hash_tensors(features), "reference": reference.digest, "conditions": bool(conditions),
            "groups": groups,
        }  # fmt: skip
        return self.store.scores(key, compute)

    def _extract(
        self, sampler: Sampler, seed: int, batch_size: int, source: str, progress: Progress
    ) -> dict[str, Tensor]:
        """Features of one replicate, from the store or from newly generated images."""
        labels, generated = self.reference.labels, 0

        def batches() -> Iterator[Tensor]:
            nonlocal generated
            for images in prefetch(sampler.batches(labels, batch_size, seed)):
                yield images
                generated += len(images)
                progress.update(len(images))

        if self.store is None or not source:
            return extract(self.extractors.networks, batches())
        key = {
            "source": source, "sampler": sampler.name, "nfe": sampler.nfe, "seed": seed, "batch_size": batch_size,
            "labels": labels.tolist(), "device": sampler.device.type, "threads": torch.get_num_threads(),
        }  # fmt: skip
        features = self.store.features(key, self.extractors.networks, batches)
        progress.update(len(labels) - generated)
        return features

    def _conditions(self, labels: Tensor) -> Conditions:
        captions = self.extractors.clip.caption_features([self.reference.captions[i] for i in labels.tolist()])
        return Conditions(labels, captions, self.extractors.classify)


def replicate_seed(seed: int, replicate: int) -> int:
    """Seed of the noise of a replicate."""
    return seed * 1_000_003 + replicate
