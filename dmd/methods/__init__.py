"""The methods by name. A new one: its file here, a line below, its keys in params.yaml, its test."""

from dmd.methods.base import Method, Networks, Phase
from dmd.methods.dmd import DMD

METHODS: dict[str, type[Method]] = {"dmd": DMD}

__all__ = ["METHODS", "Method", "Networks", "Phase"]
