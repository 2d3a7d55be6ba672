"""The table of the sources of data.

To add a source, write a function that lists its records (the contract is `Source` in base.py), add its line here, and
add its name to `DataConfig.source` in dmd/config.py.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from dmd.config import DataConfig
from dmd.preparation.sources.arrays import cifar10, digits, fashion_mnist, mnist
from dmd.preparation.sources.base import Source
from dmd.preparation.sources.celeba import celeba
from dmd.preparation.sources.folder import folder
from dmd.preparation.sources.huggingface import huggingface
from dmd.preparation.sources.prompts import prompts
from dmd.preparation.sources.webdataset import webdataset


@dataclass(frozen=True)
class SourceKind:
    """One line of the table. `--dry-run` reads its sizes, so that it need not download or list the data."""

    list_records: Callable[[DataConfig], Source]
    images: Mapping[str, int] = field(default_factory=dict)  # per split; empty if the files determine it
    classes: int = 0  # 0 if there are none, or if the files determine their number


SOURCES: dict[str, SourceKind] = {
    "digits": SourceKind(digits, {"train": 1797}, classes=10),
    "mnist": SourceKind(mnist, {"train": 60_000, "test": 10_000}, classes=10),
    "fashion_mnist": SourceKind(fashion_mnist, {"train": 60_000, "test": 10_000}, classes=10),
    "cifar10": SourceKind(cifar10, {"train": 50_000, "test": 10_000}, classes=10),
    "celeba": SourceKind(celeba, {"train": 162_770, "validation": 19_867, "test": 19_962}),
    "folder": SourceKind(folder),
    "huggingface": SourceKind(huggingface),
    "webdataset": SourceKind(webdataset),
    "prompts": SourceKind(prompts),
}
