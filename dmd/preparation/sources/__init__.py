"""The sources of data. To add one: a function here that lists its records, and its name in dmd/config.py."""

from collections.abc import Callable

from dmd.config import DataConfig
from dmd.preparation.sources.arrays import cifar10, digits, fashion_mnist, mnist
from dmd.preparation.sources.base import Source
from dmd.preparation.sources.celeba import celeba
from dmd.preparation.sources.folder import folder
from dmd.preparation.sources.huggingface import huggingface
from dmd.preparation.sources.prompts import prompts
from dmd.preparation.sources.webdataset import webdataset

SOURCES: dict[str, Callable[[DataConfig], Source]] = {
    "digits": digits,
    "mnist": mnist,
    "fashion_mnist": fashion_mnist,
    "cifar10": cifar10,
    "celeba": celeba,
    "folder": folder,
    "huggingface": huggingface,
    "webdataset": webdataset,
    "prompts": prompts,
}
