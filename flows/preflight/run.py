"""A run that is about to begin, as the checks see it, and the mistakes that they find."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dmd.config import Params, validate
from dmd.errors import ConfigError, UserError
from dmd.storage.scratch import scratch_root


@dataclass(frozen=True)
class Run:
    """One or more runs of the pipeline that a command is about to begin."""

    root: Path
    params: Sequence[Params]  # of each variant; of the project's folder if the run works in place
    stages: frozenset[str]  # stages that will run; others are unchanged
    in_place: bool  # whether it works in the project's folder, and not in worktrees
    publishes: bool = True  # whether it writes to MLflow
    registers: bool = True  # whether it registers a version
    at_once: int = 1  # worktrees that exist at the same time
    preset: str | None = None  # name of the preset that the parameters come from

    @property
    def scratch(self) -> Path:
        """The folder that the stages keep checkpoints, downloads and caches in."""
        return scratch_root(self.root)

    def to_json(self) -> str:
        """Return the run as text, from which `from_json` makes an equal one."""
        params = [p.model_dump(mode="json", by_alias=True) for p in self.params]
        return json.dumps({**vars(self), "root": str(self.root), "params": params, "stages": sorted(self.stages)})

    @classmethod
    def from_json(cls, text: str) -> "Run":
        """Make the run of a text that `to_json` wrote."""
        values = json.loads(text)
        params = [validate(p, "params") for p in values["params"]]
        return cls(**{**values, "root": Path(values["root"]), "params": params, "stages": frozenset(values["stages"])})


@dataclass(frozen=True)
class Mistakes:
    """The result of the checks."""

    lines: list[str]  # what, where, what to do
    in_parameters: bool  # whether one of them is in the parameters


# A check yields one line for each mistake, or raises UserError with such lines.
Check = Callable[[Run], Iterable[str]]


def find_mistakes(checks: Iterable[Check], run: Run) -> Mistakes:
    """Run the checks, all of them whatever they find."""
    lines, in_parameters = list[str](), False
    for check in checks:
        try:
            lines += check(run)
        except UserError as e:
            lines += str(e).splitlines()
            in_parameters = in_parameters or isinstance(e, ConfigError)
    return Mistakes(lines, in_parameters)
