"""Marks the extractors that training has seen, since they share something with a discriminator's trunk."""

from pathlib import Path

from dmd.features.facts import read_facts
from dmd.features.load import family
from dmd.features.own import OWN
from evaluation.metrics.schema import Baseline
from evaluation.models.build import trained_on_second_half
from evaluation.models.names import CLASSIFIER, EVALUATOR


def find_seen(training: Path, baseline: Baseline, evaluator: Path) -> dict[str, str]:
    """The reason for each extractor that training has seen, by its name.

    training: the folder with the records of stage `train`; evaluator: the folder of stage `evaluator`.

    An extractor is seen if a trunk has its weights or an architecture of its family. A network that was trained here is
    also seen if the run's own trunk was trained on labels of the same images.
    """
    seen: dict[str, str] = {}
    for trunk in read_facts(training):
        for name, facts in baseline.provenance.extractors.items():
            if name in seen:
                continue
            if trunk.sha256 == facts.sha256:
                seen[name] = f"a discriminator reads the same weights ({trunk.name})"
            elif trunk.family == family(name):
                seen[name] = f"a discriminator reads a network of its family ({trunk.name})"
            elif trunk.name == OWN and name in (CLASSIFIER, EVALUATOR) and not trained_on_second_half(evaluator):
                seen[name] = "it was trained on images of the run's own trunk"
    return seen
