"""Marks the extractors and judges that training has seen: they share something with a discriminator's trunk."""

from pathlib import Path

from dmd.features.facts import read_facts
from dmd.features.load import family
from dmd.features.own import OWN
from evaluation.judges.load import JUDGES
from evaluation.metrics.schema import Baseline
from evaluation.models.build import trained_on_second_half
from evaluation.models.names import CLASSIFIER, EVALUATOR

IMAGENET = "ImageNet"
# Kinds of frozen networks whose published weights learned labels of ImageNet; timm's are nearly all of them.
LEARNED_LABELS = ("efficientnet_lite", "torchvision.", "timm")
# Extractors that were trained on ImageNet's images. DINOv2's LVD-142M contains them (Oquab et al. 2023).
TRAINED_ON_IMAGENET = ("efficientnet_lite0", "inception", "dinov2")


def find_seen(training: Path, baseline: Baseline, evaluator: Path) -> dict[str, str]:
    """The reason for each extractor and judge that training has seen, by its name.

    training: the folder with the records of stage `train`; evaluator: the folder of stage `evaluator`.

    An extractor or judge is seen if a trunk has its weights or an architecture of its family, or if the trunk learned
    labels of images that it was trained on: those of ImageNet, or, for networks that are trained here, of the train
    split.
    """
    seen: dict[str, str] = {}
    for trunk in read_facts(training):
        for name, facts in (baseline.provenance.extractors | baseline.provenance.judges).items():
            if name in seen:
                continue
            if trunk.sha256 == facts.sha256:
                seen[name] = f"a discriminator reads the same weights ({trunk.name})"
            elif trunk.family == (JUDGES[name].family if name in JUDGES else family(name)):
                seen[name] = f"a discriminator reads a network of its family ({trunk.name})"
            elif trunk.name.startswith(LEARNED_LABELS) and name in TRAINED_ON_IMAGENET:
                seen[name] = f"a discriminator reads a network that learned labels of {IMAGENET} ({trunk.name})"
            elif (
                trunk.name == OWN
                and name in (CLASSIFIER, EVALUATOR)
                and not trained_on_second_half(evaluator, trunk.split)
            ):
                seen[name] = "it was trained on images of the run's own trunk"
    return seen
