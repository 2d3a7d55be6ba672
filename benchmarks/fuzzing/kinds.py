"""The table of the kinds of input that are fuzzed."""

import importlib
import random
from pathlib import Path
from typing import Protocol


class Kind(Protocol):
    """A kind of input."""

    @property
    def refusals(self) -> tuple[type[Exception], ...]:
        """The errors that the command which reads this kind prints as one line."""
        ...

    def build(self, folder: Path) -> None:
        """Write a good input into an empty folder."""
        ...

    def damage(self, rng: random.Random, folder: Path) -> str:
        """Change the input in the folder; return a line that says how."""
        ...

    def use(self, folder: Path) -> str:
        """Read the input as the commands do; return the result in words.

        Raises an error of `refusals` if the input is refused, and DamagedResultError if the result is not valid.
        """
        ...


# The name of each kind, and its class. The modules are imported when they are needed: some of them take many seconds.
KINDS = {
    "params.yaml": "parameters.ParamsFile",
    "preset": "parameters.PresetFile",
    "ablation": "parameters.AblationFile",
    "search": "parameters.SearchFile",
    "overrides": "parameters.SetOption",
    "teacher": "files.TeacherFolder",
    "text_teacher": "files.TextTeacher",
    "data_folder": "files.Data",
    "archive": "files.Archive",
    "idx_files": "files.Idx",
    "captions.csv": "files.Captions",
    "captions.jsonl": "files.CaptionLines",
    "prompts": "files.Prompts",
    "generator": "files.GeneratorFolder",
    "checkpoint": "files.Checkpoint",
    "pickle": "files.Pickle",
    "metrics.json": "files.MeasuresFile",
}


def load_kind(name: str) -> Kind:
    """Return a kind of the table."""
    module, _, kind = KINDS[name].partition(".")
    return getattr(importlib.import_module(f"benchmarks.fuzzing.{module}"), kind)()
