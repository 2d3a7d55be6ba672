"""An ablation file: which changes to params.yaml are compared, over which seeds; and its members."""

import hashlib
import itertools
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from dmd.config import load_params
from dmd.errors import ConfigError
from flows.pipeline.changes import Change, changed
from flows.pipeline.presets import load_preset

NAME = r"^[a-z0-9][a-z0-9_]*$"


class Row(BaseModel):
    """One variant."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=NAME)
    changes: dict[str, Change]


class Ablation(BaseModel):
    """The file. `rows` lists variants; `grid` makes one of each combination; `base` holds for all of them, and so does
    a preset, whose changes come before."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    description: str
    seeds: list[int] = Field(min_length=1)
    at_once: int = Field(default=1, ge=1, le=64)
    preset: str | None = None
    base: dict[str, Change | list[int]] = {}
    rows: list[Row] = []
    grid: dict[str, list[Change]] = {}

    @model_validator(mode="after")
    def _has_variants(self) -> "Ablation":
        names = [row.name for row in self.variants()]
        if not names:
            raise ValueError("rows: none; list variants under rows, or values under grid")
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"rows: {repeated[0]!r} is there twice")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds: {', '.join(map(str, self.seeds))}: one is there twice")
        return self

    def variants(self) -> list[Row]:
        """The rows, and a row for each combination of the grid."""
        combinations = itertools.product(*self.grid.values()) if self.grid else ()
        made = [dict(zip(self.grid, values, strict=True)) for values in combinations]
        return [*self.rows, *(Row(name=_grid_name(changes), changes=changes) for changes in made)]


def _grid_name(changes: dict[str, Change]) -> str:
    """critic_turns_5_gan_weight_0_003: the last word of each key, and its value, as a name."""
    text = "_".join(f"{key.rpartition('.')[2]}_{value}" for key, value in changes.items()).lower()
    return "".join(c if c.isalnum() else "_" for c in text)


@dataclass(frozen=True)
class Member:
    """One experiment: a row with a seed."""

    row: str
    seed: int
    changes: dict[str, Change | list[int]] = field(hash=False)
    experiment: str  # DVC's name for it: the same file, row and numbers give the same
    upstream: str  # members that share it share teacher, evaluator, baseline and pairs


LAST = ("train", "evaluate")  # the stages that a member has to itself, unless it changes an earlier one


@dataclass(frozen=True)
class Plan:
    """An ablation whose every member has been checked."""

    name: str
    ablation: Ablation
    members: list[Member]
    params: dict[str, Any]  # params.yaml, which holds what a row does not change


def waves(todo: list[Member]) -> tuple[list[Member], list[Member]]:
    """Of members that share their teacher the first goes alone: the others find its stages in DVC's cache."""
    first: dict[str, Member] = {}
    for member in todo:
        first.setdefault(member.upstream, member)
    leaders = list(first.values())
    return leaders, [m for m in todo if m not in leaders]


def load_plan(root: Path, file: Path) -> Plan:
    """Raises ConfigError for a mistake in the file, in params.yaml, or in what they make together."""
    ablation, params_file = load_ablation(file), root / "params.yaml"
    if ablation.preset:
        base = {**load_preset(root, ablation.preset).changes, **ablation.base}
        ablation = ablation.model_copy(update={"base": base})
    made = members(file.stem, ablation, params_file, own_groups(root))
    return Plan(file.stem, ablation, made, YAML(typ="safe").load(params_file))


def own_groups(root: Path) -> set[str]:
    """Groups of params.yaml that none but the last stages reads."""
    stages = YAML(typ="safe").load(root / "dvc.yaml")["stages"]
    groups = {name: set(stage.get("params", ())) for name, stage in stages.items()}
    shared = set().union(*(g for name, g in groups.items() if name not in LAST))
    return set().union(*groups.values()) - shared


def load_ablation(path: Path) -> Ablation:
    """Read and validate. Raises ConfigError with one line for each mistake."""
    try:
        return Ablation.model_validate(YAML(typ="safe").load(path) or {})
    except OSError as e:
        raise ConfigError(f"{path}: {e.strerror or e}") from None
    except YAMLError as e:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(e).split())}") from None
    except ValidationError as e:
        lines = (f"{path}: {'.'.join(map(str, x['loc']))}: {x['msg'].lower()}" for x in e.errors())
        raise ConfigError("\n".join(lines)) from None


def members(name: str, ablation: Ablation, params_file: Path, downstream: set[str]) -> list[Member]:
    """Every row with every seed, checked against the schema. downstream: groups that only train and evaluate read.

    Raises ConfigError for a change that params.yaml does not allow.
    """
    load_params(params_file)  # its own mistakes first, under its own name
    base = YAML(typ="safe").load(params_file)
    made = []
    for row, seed in itertools.product(ablation.variants(), ablation.seeds):
        changes = {**ablation.base, **row.changes, "train.seed": seed}
        params = changed(base, changes, f"ablation {name}, row {row.name}")
        digest = hashlib.sha256(json.dumps(changes, sort_keys=True).encode()).hexdigest()[:6]
        upstream = {group: value for group, value in params.items() if group not in downstream}
        key = hashlib.sha256(json.dumps(upstream, sort_keys=True).encode()).hexdigest()
        made.append(Member(row.name, seed, changes, f"{name}-{row.name}-seed{seed}-{digest}", key))
    return made
