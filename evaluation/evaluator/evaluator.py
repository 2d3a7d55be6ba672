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
from dmd.training.shared_work import ALONE, SharedWork
from evaluation.evaluator.agreement import check_agreement
from evaluation.evaluator.prefetch import prefetch
from evaluation.features.extractors import Extractors
from evaluation.features.store import FeatureStore
from evaluation.judges.base import split_captions, with_captions
from evaluation.metrics.comparison import Conditions
from evaluation.metrics.measures import MEASURES
from evaluation.metrics.reference import Reference, hash_tensors
from evaluation.metrics.schema import GeneratorMeasures, RealMeasures, Scores
from evaluation.metrics.scores import compute_scores, jackknife_scores, summarise
from evaluation.models.extractors import Extractor, extract
from evaluation.statistics.intervals import GROUPS


@dataclass(frozen=True)
class Evaluator:
    """Feature extractors and judges, the reference, and an optional store with features of earlier runs."""

    extractors: Extractors
    reference: Reference
    store: FeatureStore | None = None
    work: SharedWork = ALONE  # the processes that share the images

    @classmethod
    def load(
        cls, folder: Path, baseline: Path, cfg: ExtractorsConfig, device: torch.device, work: SharedWork = ALONE
    ) -> "Evaluator":
        """Load the folders of the evaluator and of the baseline stage, with the project's own store.

        Raises EvaluatorError if the baseline was evaluated with other extractors.
        """
        extractors = Extractors.load(folder, cfg, device)
        check_agreement(extractors, baseline)
        return cls(extractors, Reference.load(baseline), FeatureStore.default(extractors.identities), work)

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
        sets = []
        with Progress(sampler.name, reference.replicates * len(reference.labels), "images") as progress:
            for replicate in range(reference.replicates):
                noise = replicate_seed(seed, replicate)
                sets.append(self._extract(sampler, noise, batch_size, source, progress))
        if len(sets) == 1:
            scores = self.work.from_main(lambda: jackknife_scores(self._score(sets[0], conditions, source, GROUPS)))
        else:
            scores = self.work.join_up([self._score(s, conditions, source)[0] for s in self.work.own(sets)])
        features = [self._of_extractors(s) for s in sets]
        return summarise(scores, features, reference, sampler.nfe, seed, sampler.conditional), scores

    def evaluate_real(self, split: Split, batch_size: int = 256) -> RealMeasures:
        """Measures of held-out real images: the floor that generators are compared with.

        Judges have no figures for a split of prompts alone, which has no images.
        """
        captions = self.extractors.clip.caption_features(split.captions)
        conditions = Conditions(split.labels, captions, self.extractors.classify)
        judgements = self._judge(split, batch_size) if self.extractors.judges and split.has_images else {}
        scores = compute_scores(self.reference.held_out, conditions, self.reference, judgements=judgements)[0]
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
        self, extracted: dict[str, Tensor], conditions: Conditions | None, source: str, groups: int = 0
    ) -> list[Scores]:
        """Compute the scores, or read them from the store by the hashes of the features and of the reference.

        extracted: features and judgements of a replicate.
        """
        reference, features = self.reference, self._of_extractors(extracted)
        judgements = {k: v for k, v in extracted.items() if k not in features}

        def compute() -> list[Scores]:
            return compute_scores(features, conditions, reference, groups, reference.sources, judgements)

        if self.store is None or not source:
            return compute()
        key = {
            "features": hash_tensors(extracted), "reference": reference.digest, "conditions": bool(conditions),
            "groups": groups,
        }  # fmt: skip
        return self.store.scores(key, compute)

    def _extract(
        self, sampler: Sampler, seed: int, batch_size: int, source: str, progress: Progress
    ) -> dict[str, Tensor]:
        """Features and judgements of one replicate, from the store or from newly generated images."""
        labels, generated = self.reference.labels, 0
        captions = [self.reference.captions[label] for label in labels.tolist()] if sampler.conditional else []
        networks = self.extractors.networks | self._judges(captions, batch_size)

        def batches() -> Iterator[Tensor]:
            nonlocal generated
            for images in prefetch(sampler.batches(labels, batch_size, seed, self.work)):
                yield images
                done = min(len(images) * self.work.processes, len(labels) - generated)  # the others do as many
                generated += done
                progress.update(done)

        if self.store is None or not source:
            return extract(networks, batches(), self.work)
        key = {
            "source": source, "sampler": sampler.name, "nfe": sampler.nfe, "seed": seed, "batch_size": batch_size,
            "labels": labels.tolist(), "captions": captions, "device": sampler.device.type,
            "threads": torch.get_num_threads(),
        }  # fmt: skip
        extracted = self.store.features(key, networks, batches, work=self.work, batch_size=batch_size)
        progress.update(len(labels) - generated)
        return extracted

    def _judge(self, split: Split, batch_size: int) -> dict[str, Tensor]:
        """Judgements of the held-out images, from the store or computed."""
        judges = self._judges(split.captions, batch_size)

        def batches() -> Iterator[Tensor]:
            return self.work.own(split.images.split(batch_size))

        if self.store is None:
            return extract(judges, batches(), self.work)
        key = {
            "held out": hash_tensors(self.reference.held_out), "captions": split.captions,
            "threads": torch.get_num_threads(),
        }  # fmt: skip
        return self.store.features(key, judges, batches, keep_images=False, work=self.work, batch_size=batch_size)

    def _judges(self, captions: list[str], batch_size: int) -> dict[str, Extractor]:
        """The judges as extractors of this process's batches of images with these captions; none without captions."""
        if not captions:
            return {}
        return {
            name: with_captions(loaded.judge, self.work.own(split_captions(captions, batch_size)))
            for name, loaded in self.extractors.judges.items()
        }

    def _of_extractors(self, extracted: dict[str, Tensor]) -> dict[str, Tensor]:
        """The features among features and judgements."""
        return {name: extracted[name] for name in self.extractors.networks}

    def _conditions(self, labels: Tensor) -> Conditions:
        captions = self.extractors.clip.caption_features([self.reference.captions[i] for i in labels.tolist()])
        return Conditions(labels, captions, self.extractors.classify)


def replicate_seed(seed: int, replicate: int) -> int:
    """Seed of the noise of a replicate."""
    return seed * 1_000_003 + replicate
