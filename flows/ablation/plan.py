"""An ablation file, which lists changes to params.yaml and seeds, and the experiments that it defines."""

import hashlib
import itertools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator
from ruamel.yaml import YAML

from dmd.config_paths import load_run_params
from dmd.errors import ConfigError
from flows.pipeline.changes import Value, change_params, resolve_local_paths
from flows.pipeline.presets import load_preset
from flows.pipeline.ranges import Dimension, Range, expand, size
from flows.runtime.git import read_head
from flows.runtime.moved import check_path
from flows.runtime.names import make_identifier
from flows.runtime.yaml_models import load_model

NAME = r"^[a-z0-9][a-z0-9_]*$"
MAX_MEMBERS = 10_000
LAST_STAGES = ("train", "evaluate")  # members that differ only in parameters of these stages share all earlier stages


class Row(BaseModel):
    """One variant: a name, and dotted keys of params.yaml with their values."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=NAME)
    changes: dict[str, Value]


class Ablation(BaseModel):
    """Content of an ablation file.

    `rows` lists variants, `grid` makes a variant of each combination of values (lists, or ranges with a number of
    values), and `base` applies to all variants. Changes of a row override those of `base`, which override those of
    `preset`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    description: str
    seeds: list[int] = Field(min_length=1)
    at_once: int = Field(default=1, ge=1, le=64)
    preset: str | None = None
    base: dict[str, Value] = {}
    rows: list[Row] = []
    grid: dict[str, Dimension] = {}

    @model_validator(mode="after")
    def _check_rows_and_seeds(self) -> "Ablation":
        count = (len(self.rows) + (prod(map(size, self.grid.values())) if self.grid else 0)) * len(self.seeds)
        if count > MAX_MEMBERS:
            raise ValueError(f"grid: {count:,} members; list fewer values, since at most {MAX_MEMBERS:,} are allowed")
        if endless := [key for key, values in self.grid.items() if isinstance(values, Range) and values.n is None]:
            raise ValueError(f"grid: {endless[0]}: a range needs n, the number of its values")
        names = [row.name for row in self.all_rows()]
        if not names:
            raise ValueError("rows: the file has no variant; list variants under rows, or values under grid")
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"rows: {repeated[0]!r} occurs twice; give each row its own name")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds: {', '.join(map(str, self.seeds))}: list each seed once")
        return self

    def all_rows(self) -> list[Row]:
        """The listed rows, then a row for each combination of the grid."""
        combinations = itertools.product(*map(expand, self.grid.values())) if self.grid else ()
        changes: list[dict[str, Value]] = [dict(zip(self.grid, values, strict=True)) for values in combinations]
        return [*self.rows, *(Row(name=_grid_name(c), changes=c) for c in changes)]


def _grid_name(changes: Mapping[str, Value]) -> str:
    """Last word of each key and its value, such as critic_turns_5_gan_weight_0_003."""
    text = "_".join(f"{key.rpartition('.')[2]}_{_show(value)}" for key, value in changes.items())
    if re.fullmatch(r"[a-z0-9_.+-]+", text):
        return re.sub(r"[^a-z0-9]", "_", text)
    return make_identifier(text).lower().replace("-", "_")


def _show(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool | float) else str(value)


@dataclass(frozen=True)
class Member:
    """One experiment: a row with a seed."""

    row: str
    seed: int
    changes: dict[str, Value] = field(hash=False)
    experiment: str  # name of the DVC experiment; it depends only on the file, the row, the seed and the changes
    upstream: str  # members with the same value share teacher, evaluator, baseline and pairs
    commit: str  # sha of the commit that it runs, whatever the project's folder has meanwhile; "" if there is none


@dataclass(frozen=True)
class Plan:
    """An ablation with its members, whose parameters are valid."""

    name: str
    ablation: Ablation
    members: list[Member]
    params: dict[str, Any]  # content of params.yaml, for the keys that a row does not change
    commit: str  # that of the members

    def at(self, commit: str) -> "Plan":
        """Return the plan for members of another commit."""
        return replace(self, commit=commit, members=[replace(m, commit=commit) for m in self.members])


def load_plan(root: Path, file: Path) -> Plan:
    """Read an ablation file, for members of the present commit.

    Raises ConfigError for a mistake in the file, in params.yaml or in their combination.
    """
    commit = read_head(root)
    check_path(file, root)
    ablation, params_file = load_ablation(file), root / "params.yaml"
    if ablation.preset:
        base = {**load_preset(root, ablation.preset).changes, **ablation.base}
        ablation = ablation.model_copy(update={"base": base})
    members = list_members(file.stem, ablation, params_file, downstream_groups(root), commit)
    return Plan(file.stem, ablation, members, YAML(typ="safe").load(params_file), commit)


def load_ablation(path: Path) -> Ablation:
    """Read and validate the file alone. Raises ConfigError with one line for each mistake."""
    return load_model(path, Ablation)


def downstream_groups(root: Path) -> set[str]:
    """Groups of params.yaml that only the last stages read."""
    stages = YAML(typ="safe").load(root / "dvc.yaml")["stages"]
    groups = {name: set(stage.get("params", ())) for name, stage in stages.items()}
    shared = set().union(*(g for name, g in groups.items() if name not in LAST_STAGES))
    return set().union(*groups.values()) - shared


def list_members(name: str, ablation: Ablation, params_file: Path, downstream: set[str], commit: str) -> list[Member]:
    """Return a member for each row and seed; `downstream` holds the groups of params.yaml that only LAST_STAGES read.

    Raises ConfigError for a change that the schema of params.yaml does not allow.
    """
    load_run_params(params_file, params_file.parent)  # a mistake in params.yaml itself is reported under its own name
    base = YAML(typ="safe").load(params_file)
    members = []
    if any("train.seed" in changes for changes in (ablation.base, ablation.grid, *(r.changes for r in ablation.rows))):
        raise ConfigError(f"ablation {name}: train.seed: `seeds` sets it for each member; list the values there")
    for row, seed in itertools.product(ablation.all_rows(), ablation.seeds):
        changes = {**ablation.base, **row.changes, "train.seed": seed}
        changes |= resolve_local_paths(base, changes, params_file.parent)
        params = change_params(base, changes, f"ablation {name}, row {row.name}", params_file.parent)
        digest = hashlib.sha256(json.dumps(changes, sort_keys=True).encode()).hexdigest()[:6]
        upstream = {group: value for group, value in params.items() if group not in downstream}
        key = hashlib.sha256(json.dumps(upstream, sort_keys=True).encode()).hexdigest()
        experiment = "-".join([*map(make_identifier, (name, row.name)), f"seed{seed}", digest])
        members.append(Member(row.name, seed, changes, experiment, key, commit))
    return members


def split_waves(members: list[Member]) -> tuple[list[Member], list[Member]]:
    """Split members into those that run first and those that run afterwards.

    The first member for each value of `upstream` runs first; the others then find its stages in DVC's cache.
    """
    first: dict[str, Member] = {}
    for member in members:
        first.setdefault(member.upstream, member)
    leaders = list(first.values())
    return leaders, [m for m in members if m not in leaders]
