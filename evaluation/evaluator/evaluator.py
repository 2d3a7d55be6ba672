"""The one judge of teacher, student and held-out images: the same measures against the same reference."""

import queue
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dmd.config import ExtractorsConfig
from dmd.data.splits import Split
from dmd.progress import Progress
from dmd.samplers.sampler import Sampler
from dmd.storage.files import sha256
from dmd.training.optim import step_rng
from evaluation.evaluator.reference import CLASSIFIER, EVALUATOR, Reference, digest
from evaluation.features.extractors import load_further
from evaluation.features.store import FeatureStore
from evaluation.metrics.measures import Conditions, jackknife_scores, scores, summarise
from evaluation.metrics.schema import ExtractorFacts, Measures, RealMeasures, Scores
from evaluation.models.classifier import Classifier
from evaluation.models.features import ClipJudge, Extractor, extract, load_extractors
from evaluation.statistics.intervals import GROUPS

RESIZES = {EVALUATOR: "the model's own, bicubic with antialiasing", CLASSIFIER: "none"}


@dataclass(frozen=True)
class Panel:
    """The networks that judge, what identifies them, and those that are not at hand."""

    clip: ClipJudge
    extractors: dict[str, Extractor]
    sha256: dict[str, str]
    resize: dict[str, str]
    skipped: dict[str, str]

    @classmethod
    def load(cls, folder: Path, further: ExtractorsConfig, device: torch.device) -> "Panel":
        """From the evaluator stage's folder and what params ask for beside it."""
        clip, own = load_extractors(folder, device)
        more, skipped = load_further(further, device)
        hashes = {EVALUATOR: sha256(folder / "clip"), CLASSIFIER: sha256(folder / "classifier")}
        return cls(
            clip=clip,
            extractors={**own, **{name: m.extract for name, m in more.items()}},
            sha256=hashes | {name: m.sha256 for name, m in more.items()},
            resize=RESIZES | {name: m.resize for name, m in more.items()},
            skipped=skipped,
        )

    def facts(self, features: dict[str, Tensor]) -> dict[str, ExtractorFacts]:
        """What stands beside every figure; features [N, D] of any images."""
        return {
            k: ExtractorFacts(sha256=self.sha256[k], dimensions=v.shape[1], resize=self.resize[k])
            for k, v in features.items()
        }

    def classify(self, features: Tensor) -> Tensor:
        """Labels [N] by the classifier, of its own features [N, F]."""
        net: Any = self.extractors[CLASSIFIER]
        assert isinstance(net, Classifier)
        with torch.inference_mode():
            return net.head(F.silu(features.to(net.head.weight.device))).argmax(dim=1).cpu()


@dataclass(frozen=True)
class Judge:
    """The panel, the reference it judges against, and features of earlier runs."""

    panel: Panel
    reference: Reference
    store: FeatureStore | None = None

    def judge(self, sampler: Sampler, seed: int, batch_size: int, source: str = "") -> tuple[Measures, list[Scores]]:
        """Every draw of the plan by every measure; the noise of draw d depends on (seed, d) only. A single draw is
        judged by its jackknife, whose values stand for draws.

        source: what identifies the sampler's network; with it, features are kept in the store. Returns the measures,
        and each draw's own.
        """
        ref = self.reference
        conditions = self._conditions(ref.labels) if sampler.conditional else None
        features = []
        with Progress(sampler.name, ref.draws * len(ref.labels), "images") as progress:
            for draw in range(ref.draws):
                features.append(self._features(sampler, draw_seed(seed, draw), batch_size, source, progress))
        if len(features) == 1:
            draws = jackknife_scores(self._scores(features[0], conditions, source, GROUPS))
        else:
            draws = [self._scores(f, conditions, source)[0] for f in features]
        return summarise(draws, features, ref, sampler.nfe, seed), draws

    def _scores(
        self, features: dict[str, Tensor], conditions: Conditions | None, source: str, groups: int = 0
    ) -> list[Scores]:
        """Kept by the content of the features and of the reference, so that only a new set is measured."""
        if self.store is None or not source:
            return scores(features, conditions, self.reference, groups)
        made_by = {
            "features": digest(features), "reference": self.reference.digest, "conditions": bool(conditions),
            "groups": groups,
        }  # fmt: skip
        return self.store.scores(made_by, lambda: scores(features, conditions, self.reference, groups))

    def _features(
        self, sampler: Sampler, seed: int, batch_size: int, source: str, progress: Progress
    ) -> dict[str, Tensor]:
        labels, done = self.reference.labels, 0

        def batches() -> Iterator[Tensor]:
            nonlocal done
            for images in ahead(sampler.batches(labels, batch_size, seed)):
                yield images
                done += len(images)
                progress.update(len(images))

        if self.store is None or not source:
            return extract(self.panel.extractors, batches())
        made_by = {
            "source": source, "sampler": sampler.name, "nfe": sampler.nfe, "seed": seed, "batch_size": batch_size,
            "labels": labels.tolist(), "device": sampler.device.type, "threads": torch.get_num_threads(),
        }  # fmt: skip
        found = self.store.features(made_by, self.panel.extractors, batches)
        progress.update(len(labels) - done)
        return found

    def judge_real(self, split: Split) -> RealMeasures:
        """The floor: held-out images by the same measures."""
        captions = self.panel.clip.caption_features(split.captions)
        conditions = Conditions(split.labels, captions, self.panel.classify)
        found = scores(self.reference.held_out, conditions, self.reference)[0]
        assert found.clip_score is not None
        return RealMeasures(
            clip_score=found.clip_score,
            accuracy=found.accuracy,
            fd=found.fd,
            precision=found.precision,
            recall=found.recall,
            density=found.density,
            coverage=found.coverage,
            samples=len(split.labels),
        )

    def pictures(self, sampler: Sampler, batch_size: int) -> Tensor:
        """The pictures' cells, uint8 [N, C, H, W]; every sampler gets the same labels and noise."""
        rng = step_rng(self.reference.picture_seed, 0)
        return torch.cat([sampler.images(part, rng) for part in self.reference.picture_labels.split(batch_size)])

    def _conditions(self, labels: Tensor) -> Conditions:
        captions = self.panel.clip.caption_features([self.reference.captions[i] for i in labels.tolist()])
        return Conditions(labels, captions, self.panel.classify)


def ahead(batches: Iterable[Tensor]) -> Iterator[Tensor]:
    """The same batches, the next one made while the last is worked on."""
    made: queue.Queue[Any] = queue.Queue(maxsize=1)
    stop = threading.Event()

    threads = torch.get_num_threads()

    def make() -> None:
        torch.set_num_threads(threads)  # OpenMP has a number of its own for each thread that calls it
        try:
            for batch in batches:
                made.put(batch)
                if stop.is_set():
                    return
            made.put(None)
        except BaseException as e:
            made.put(e)

    thread = threading.Thread(target=make, daemon=True)
    thread.start()
    try:
        while (batch := made.get()) is not None:
            if isinstance(batch, BaseException):
                raise batch
            yield batch
    finally:
        stop.set()
        while not made.empty():
            made.get()
        thread.join()


def draw_seed(seed: int, draw: int) -> int:
    """The noise seed of a draw."""
    return seed * 1_000_003 + draw
