"""Identities of the frozen networks that a generator learned from, so that evaluation can mark their relatives.

Stage `train` writes them into its records, and into the folder of the generator for trainings that start from it.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter

from dmd.errors import FeatureNetworkError
from dmd.features.frozen import FrozenNetwork
from dmd.features.load import family, weights_sha256
from dmd.features.own import OWN
from dmd.storage.faults import refuse
from dmd.storage.files import write_text

FILE = "trunks.json"
LPIPS = "lpips"  # name of the VGG16 of the regression loss


class TrunkFacts(BaseModel):
    """The identity of a frozen network of images, such as a trunk, that was trained before the run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str  # in method.gan.trunks or method.moments.networks, or lpips
    family: str  # of its architecture
    sha256: str  # of its weights; empty for the run's own
    split: str = ""  # hash of the images of the train split whose first half the run's own saw; empty if not known


LIST = TypeAdapter(list[TrunkFacts])


def describe(trunks: Mapping[str, FrozenNetwork], split: str = "") -> list[TrunkFacts]:
    """The facts of loaded trunks by name. split: hash of the images of the train split, for the run's own."""
    facts = []
    for name, net in trunks.items():
        weights = {"split": split, "sha256": ""} if name == OWN else {"sha256": weights_sha256(name)}
        facts.append(TrunkFacts(name=name, family=family(net.architecture), **weights))
    return facts


def write_facts(facts: Iterable[TrunkFacts], folder: Path) -> Path:
    """Write the facts into a folder, and return the file."""
    write_text(folder / FILE, json.dumps([f.model_dump() for f in facts], indent=2) + "\n")
    return folder / FILE


def has_facts(folder: Path) -> bool:
    """Whether a folder says which frozen networks a generator learned from; one of an earlier version does not."""
    return (folder / FILE).is_file()


def read_facts(folder: Path) -> list[TrunkFacts]:
    """The facts that `write_facts` wrote; none if the folder is older than they are.

    Raises FeatureNetworkError if the file is damaged.
    """
    file = folder / FILE
    if not has_facts(folder):
        return []
    with refuse(f"{file} cannot be read", "run the train stage that wrote it again", FeatureNetworkError):
        return LIST.validate_json(file.read_bytes())
