"""Identities of a discriminator's trunks, which stage `train` records so that evaluation can mark their relatives."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter

from dmd.features.frozen import FrozenNetwork
from dmd.features.load import family, weights_sha256
from dmd.features.own import OWN
from dmd.storage.files import write_text

FILE = "trunks.json"


class TrunkFacts(BaseModel):
    """The identity of a trunk that was trained before the run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str  # in method.gan.trunks
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


def read_facts(folder: Path) -> list[TrunkFacts]:
    """The facts that `write_facts` wrote; none if the folder is older than they are."""
    file = folder / FILE
    return LIST.validate_json(file.read_bytes()) if file.is_file() else []
