"""Marks the extractors and judges that training has seen: they share something with a frozen network of its losses."""

from pathlib import Path

from dmd.features.facts import LPIPS, TrunkFacts, read_facts
from dmd.features.load import family
from dmd.features.own import OWN
from evaluation.judges.load import JUDGES
from evaluation.metrics.schema import Baseline
from evaluation.models.build import has_published_clip, trained_on_second_half
from evaluation.models.names import CLASSIFIER, EVALUATOR

IMAGENET = "ImageNet"
# Kinds of frozen networks whose published weights learned labels of ImageNet; timm's are nearly all of them.
LEARNED_LABELS = ("efficientnet_lite", "torchvision.", "timm", LPIPS)
# Extractors that were trained on ImageNet's images. DINOv2's LVD-142M contains them (Oquab et al. 2023).
TRAINED_ON_IMAGENET = ("efficientnet_lite0", "inception", "dinov2")


def find_seen(training: Path, baseline: Baseline, evaluator: Path) -> dict[str, str]:
    """The reason for each extractor and judge that training has seen, by its name.

    training: the folder with the records of stage `train`, or that of a generator; evaluator: the folder of stage
    `evaluator`.

    An extractor or judge is seen if a frozen network of the training, or of the one that it starts from, has its
    weights or an architecture of its family, or learned labels of images that it was trained on: those of ImageNet, or,
    for networks that are trained here, of the train split.
    """
    seen: dict[str, str] = {}
    for trunk in read_facts(training):
        for name, facts in (baseline.provenance.extractors | baseline.provenance.judges).items():
            if name not in seen and (reason := _find_reason(trunk, name, facts.sha256, evaluator)):
                seen[name] = f"{reason} ({trunk.name})"
    return seen


def _find_reason(trunk: TrunkFacts, name: str, sha256: str, evaluator: Path) -> str:
    """The reason why a frozen network makes an extractor or judge seen; empty if it does not."""
    is_published = name == EVALUATOR and has_published_clip(evaluator)
    if trunk.sha256 == sha256:
        return "training reads the same weights"
    if trunk.family == ("clip" if is_published else JUDGES[name].family if name in JUDGES else family(name)):
        return "training reads a network of its family"
    if trunk.name.startswith(LEARNED_LABELS) and name in TRAINED_ON_IMAGENET:
        return f"training reads a network that learned labels of {IMAGENET}"
    is_own = name in (CLASSIFIER, EVALUATOR) and not is_published  # trained here on labels or captions of the data
    if trunk.name == OWN and is_own and not trained_on_second_half(evaluator, trunk.split):
        return "it was trained on images of a trunk that was trained here"
    return ""
