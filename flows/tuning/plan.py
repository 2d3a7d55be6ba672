"""A search file, which lists parameters with their ranges and a budget of trials, and the experiments of its trials."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator
from ruamel.yaml import YAML

from dmd.config_paths import load_run_params
from flows.ablation.plan import Member
from flows.pipeline.changes import Change, Value, change_params, resolve_local_paths
from flows.pipeline.presets import load_preset
from flows.pipeline.ranges import Dimension, Range, edges
from flows.runtime.git import read_head
from flows.runtime.moved import check_path
from flows.runtime.names import make_identifier
from flows.runtime.yaml_models import load_model

TURNS = "train.generator_turns"
OWN_KEYS = {TURNS: "turns", "train.seed": "train_seed"}  # keys of params.yaml that a field of the file sets

Parameters = Mapping[str, Change]


class Search(BaseModel):
    """Content of a search file.

    `space` holds the searched parameters; `base` applies to all trials and overrides `preset`. Each number of `turns`
    is a rung: a trial trains for the first number of generator turns. It trains anew for the next number if its score
    is in the best 1 / keep of those at its rung so far. At the last rung the whole pipeline runs.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    description: str
    space: dict[str, Dimension] = Field(min_length=1)
    trials: int = Field(ge=1, le=10_000)
    turns: list[int] = Field(min_length=1, max_length=10)
    keep: int = Field(default=2, ge=2, le=100)
    at_once: int = Field(default=1, ge=1, le=64)
    hours: float | None = Field(default=None, gt=0, description="no trial starts after this many hours of all trials")
    seed: int = Field(default=0, ge=0, lt=2**31, description="seed of the proposals")
    train_seed: int = Field(default=0, ge=0, lt=2**31, description="train.seed of every trial")
    preset: str | None = None
    base: dict[str, Value] = {}

    @model_validator(mode="after")
    def _check(self) -> "Search":
        if sorted(set(self.turns)) != self.turns or self.turns[0] < 1:
            raise ValueError(f"turns: {self.turns} must be numbers above 0 in ascending order")
        for key, own in OWN_KEYS.items():
            if key in self.space or key in self.base:
                raise ValueError(f"{key}: write {own} in place of it")
        if both := sorted(self.space.keys() & self.base.keys()):
            raise ValueError(f"base: {both[0]} is also in space; take it out of one of them")
        if ranged := [key for key, values in self.space.items() if isinstance(values, Range) and values.n]:
            raise ValueError(f"space: {ranged[0]}: a search draws from the whole range; leave out n")
        return self


@dataclass(frozen=True)
class Plan:
    """A search whose parameters are valid, with the project that it runs in."""

    name: str
    search: Search
    params: dict[str, Any]  # content of params.yaml
    root: Path
    commit: str  # sha of the commit that the trials run, whatever the folder has meanwhile; "" if there is none

    @property
    def digest(self) -> str:
        """A hash of the file's content without the number of trials, which may grow."""
        content = self.search.model_dump(exclude={"trials", "at_once", "hours", "description"})
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]

    def member(self, number: int, values: Parameters, rung: int) -> Member:
        """Return the experiment of trial `number` at a rung. values: by key; rung: index of `turns`."""
        search, turns = self.search, self.search.turns[rung]
        changes = {**search.base, **values, "train.seed": search.train_seed, TURNS: turns}
        changes |= resolve_local_paths(self.params, changes, self.root)
        digest = hashlib.sha256(json.dumps(changes, sort_keys=True).encode()).hexdigest()[:6]
        name = f"{make_identifier(self.name)}-trial{number:03d}-{turns}turns-{digest}"
        return Member(f"trial {number}", search.train_seed, changes, name, "", self.commit)

    def check_values(self, values: Parameters, where: str) -> dict[str, Any]:
        """Return params.yaml with the values of a trial's last rung. Raises ConfigError if they are not allowed."""
        changes = self.member(0, values, len(self.search.turns) - 1).changes
        return change_params(self.params, changes, where, self.root)


def load_plan(root: Path, file: Path) -> Plan:
    """Read a search file, for trials of the present commit.

    Raises ConfigError for a mistake in the file, in params.yaml or in their combination. Each bound and each listed
    value is checked together with the first value of every other parameter.
    """
    commit = read_head(root)
    check_path(file, root)
    search = load_model(file, Search)
    if search.preset:
        base = {**load_preset(root, search.preset).changes, **search.base}
        base = {key: value for key, value in base.items() if key not in (*search.space, *OWN_KEYS)}
        search = search.model_copy(update={"base": base})
    load_run_params(root / "params.yaml", root)  # a mistake in params.yaml itself is reported under its own name
    plan = Plan(file.stem, search, YAML(typ="safe").load(root / "params.yaml"), root, commit)
    first = {key: edges(values)[0] for key, values in search.space.items()}
    for key, values in search.space.items():
        for value in edges(values):
            plan.check_values({**first, key: value}, f"search {plan.name}, {key}: {value}")
    return plan
