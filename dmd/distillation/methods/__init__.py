"""The methods by name. A new one: its file here, a line below, its keys in params.yaml, its test."""

from dmd.distillation.methods.base import TURNS, Method, Networks, Phase
from dmd.distillation.methods.dmd import DMD
from dmd.distillation.methods.dmd2 import DMD2
from dmd.distillation.methods.f_distill import FDistill

METHODS: dict[str, type[Method]] = {"dmd": DMD, "dmd2": DMD2, "f_distill": FDistill}

__all__ = ["METHODS", "TURNS", "Method", "Networks", "Phase"]
