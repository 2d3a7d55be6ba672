"""The feature extractors and judges of a run: those of the evaluator stage, and the networks that params name.

Nothing is downloaded unless params give a hub id. A network without weights on this machine is skipped, with a reason.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dmd.config import NONE, ExtractorsConfig, WeightsSource
from dmd.errors import EvaluatorError, UserError
from dmd.features.load import find_weights as find_frozen
from dmd.storage.files import sha256
from dmd.storage.finite import check_finite
from evaluation.features.networks import NETWORKS, NetworkLoader
from evaluation.judges.load import LoadedJudge, load_judges
from evaluation.metrics.schema import ExtractorFacts
from evaluation.models.classifier import Classifier
from evaluation.models.clip import ClipExtractor
from evaluation.models.extractors import Extractor, load_extractors
from evaluation.models.names import CLASSIFIER, EVALUATOR

INCEPTION_FILE = "inception-2015-12-05.pt"
OWN_RESIZE = "the model's own, bicubic with antialiasing"


@dataclass(frozen=True)
class Extractors:
    """Feature extractors and judges by name, their identities, and the networks without weights on this machine."""

    clip: ClipExtractor
    networks: dict[str, Extractor]
    sha256: dict[str, str]
    resize: dict[str, str]
    skipped: dict[str, str]  # network -> reason
    judges: dict[str, LoadedJudge] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: Path, cfg: ExtractorsConfig, device: torch.device) -> "Extractors":
        """Load the evaluator stage's folder and the networks that params name."""
        clip, own = load_extractors(folder, device)
        networks, skipped = load_networks(cfg, device)
        judges, without = load_judges(cfg, device)
        parts = {EVALUATOR: "clip", CLASSIFIER: "classifier"}
        hashes, resize = (
            {name: sha256(folder / parts[name]) for name in own},
            {EVALUATOR: OWN_RESIZE, CLASSIFIER: "none"},
        )
        return cls(
            clip=clip,
            networks={**own, **{name: n.extract for name, n in networks.items()}},
            sha256=hashes | {name: n.sha256 for name, n in networks.items()},
            resize={name: resize[name] for name in own} | {name: n.resize for name, n in networks.items()},
            skipped=skipped | without,
            judges=judges,
        )

    @property
    def identities(self) -> dict[str, str]:
        """Everything that the output of each extractor and judge depends on, for the same images and captions."""
        return self.sha256 | {name: judge.facts.identity for name, judge in self.judges.items()}

    def describe(self, features: dict[str, Tensor]) -> dict[str, ExtractorFacts]:
        """Identity of each extractor; features [N, D] per extractor give the dimensions."""
        return {
            k: ExtractorFacts(sha256=self.sha256[k], dimensions=v.shape[1], resize=self.resize[k])
            for k, v in features.items()
        }

    def classify(self, features: Tensor) -> Tensor:
        """Predicted labels [N] from the classifier's features [N, F]."""
        classifier = self.networks[CLASSIFIER]
        assert isinstance(classifier, Classifier)
        return classifier.classify(features)


@dataclass(frozen=True)
class FeatureNetwork:
    """A feature network that params name, and its identity."""

    extract: Extractor
    sha256: str
    resize: str
    name: str


def load_networks(cfg: ExtractorsConfig, device: torch.device) -> tuple[dict[str, FeatureNetwork], dict[str, str]]:
    """Load the networks that params name. Returns networks by name, and reasons by the name of each skipped network.

    Raises EvaluatorError if a file is damaged or its sha256 differs from that in params.
    """
    networks, skipped = {}, {}
    for name, loader in NETWORKS.items():
        source: WeightsSource = getattr(cfg, name)
        if source.weights == NONE:
            continue
        path = find_weights(name, source.weights)
        if isinstance(path, str):
            skipped[name] = path
        else:
            network = _load(name, loader, path, source.sha256, device)
            networks[network.name] = network
    return networks, skipped


def find_weights(name: str, weights: str) -> Path | str:
    """Path of the weights of a network, or the reason why there are none. weights: value in params."""
    try:
        path = find_frozen(name, weights)
    except UserError as e:
        return str(e)
    return path / INCEPTION_FILE if name == "inception" and path.is_dir() else path


def _load(name: str, loader: NetworkLoader, path: Path, expected: str, device: torch.device) -> FeatureNetwork:
    digest = sha256(path)
    if expected not in ("any", digest):
        raise EvaluatorError(f"extractors.{name}: {path} has sha256 {digest}, not {expected}; fetch it again")
    try:
        network: Any = loader(path, device)
        features = network(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))  # the weights of another network fail here
        check_finite(features, "a feature of a black image", "its weights are no numbers")
    except Exception as e:  # torch, transformers and safetensors each raise exceptions of their own
        reason = " ".join(str(e).split())[:200]
        raise EvaluatorError(
            f"extractors.{name}: {path} is damaged or holds another network; replace it ({reason})"
        ) from e
    return FeatureNetwork(network, digest, getattr(network, "resize", OWN_RESIZE), getattr(network, "name", name))
