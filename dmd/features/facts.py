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


LIST = TypeAdapter(list[TrunkFacts])


def describe(trunks: Mapping[str, FrozenNetwork]) -> list[TrunkFacts]:
    """The facts of loaded trunks by name."""
    return [
        TrunkFacts(name=n, family=family(net.architecture), sha256="" if n == OWN else weights_sha256(n))
        for n, net in trunks.items()
    ]


def write_facts(facts: Iterable[TrunkFacts], folder: Path) -> Path:
    """Write the facts into a folder, and return the file."""
    write_text(folder / FILE, json.dumps([f.model_dump() for f in facts], indent=2) + "\n")
    return folder / FILE


def read_facts(folder: Path) -> list[TrunkFacts]:
    """The facts that `write_facts` wrote; none if the folder is older than they are."""
    file = folder / FILE
    return LIST.validate_json(file.read_bytes()) if file.is_file() else []
