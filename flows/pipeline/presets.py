"""Variants of params.yaml for a run, made from a preset (experiments/presets/NAME.yaml), overrides and seeds."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from dmd.errors import ConfigError
from dmd.yaml_files import load_yaml, parse_yaml
from flows.pipeline.changes import Changes, Value, change_params, resolve_local_paths
from flows.runtime.git import show_file
from flows.runtime.moved import explain_preset
from flows.runtime.names import make_identifier
from flows.runtime.yaml_models import load_model
from flows.workspace.folders import PRESETS

SEED = "train.seed"


class Preset(BaseModel):
    """A preset file: a description, and dotted keys of params.yaml with their values."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    description: str = Field(min_length=1)
    changes: dict[str, Value]
    needs: dict[str, str] = Field(default={}, description="keys whose value the user must give, each with its meaning")


@dataclass(frozen=True)
class Variant:
    """One set of changes to params.yaml, and the name of the experiment that runs with them."""

    experiment: str
    changes: Changes
    missing: Mapping[str, str] = field(default_factory=dict)  # keys that still need a value -> their meaning

    def fill(self, root: Path) -> dict[str, Value]:
        """Return the changes with an existing folder as each missing value, which is enough to validate and plan."""
        return {**self.changes, **dict.fromkeys(self.missing, str(root / PRESETS))}


def list_presets(root: Path) -> list[str]:
    """Return the names of the presets."""
    return sorted(path.stem for path in (root / PRESETS).glob("*.yaml"))


def load_preset(root: Path, name: str) -> Preset:
    """Read and check a preset. Raises ConfigError with one line for each mistake."""
    path = root / PRESETS / f"{name}.yaml"
    if name not in list_presets(root):
        hint = explain_preset(root, name) or f"{PRESETS}/ has {', '.join(list_presets(root)) or 'none'}"
        raise ConfigError(f"there is no preset {name!r}; {hint}")
    return load_model(path, Preset)


def read_base(root: Path, from_commit: bool = False) -> dict[str, Any]:
    """Read the params.yaml that experiments change: that of the folder, or that of the last commit if it has one.

    Raises ConfigError in one line if it is not YAML, or has no groups.
    """
    text = show_file(root, "HEAD", "params.yaml") if from_commit else None
    if text is None:
        base, where = load_yaml(root / "params.yaml"), "params.yaml"
    else:
        where = "params.yaml of the last commit"
        try:
            base = parse_yaml(text.decode("utf-8-sig"), where)
        except (ConfigError, UnicodeDecodeError) as e:
            raise ConfigError(f"{where} can't be read; correct the file and commit it: {e}") from None
    if not isinstance(base, dict):
        raise ConfigError(f"{where}: contains no groups; correct the file and commit it")
    return base


def make_variants(
    root: Path, preset: str | None, overrides: Changes, seeds: Sequence[int], from_commit: bool = False
) -> list[Variant]:
    """Return one variant per seed, a single variant if there are no seeds, or an empty list without any change.

    Overrides replace values of the preset, and seeds its train.seed. `missing` holds the keys that the preset needs and
    that have no value yet. from_commit: see `read_base`.

    Raises ConfigError for an unknown preset, a repeated seed, train.seed in the overrides beside seeds, or changes that
    params.yaml does not allow.
    """
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f"seeds: {', '.join(map(str, seeds))}: list each seed once")
    settings = load_preset(root, preset) if preset is not None else Preset(description="none", changes={})
    common = {**settings.changes, **overrides}
    if seeds and SEED in overrides:
        raise ConfigError(f"{SEED}: the seeds set it for each experiment; give it there, or leave the seeds out")
    missing = {key: meaning for key, meaning in settings.needs.items() if key not in common}
    if not common and not seeds and not preset:
        return []
    base = read_base(root, from_commit)
    common |= resolve_local_paths(base, common, root)
    variants, where = list[Variant](), f"preset {preset}" if preset else "overrides"
    for seed in seeds or [None]:
        changes = {**common, **({} if seed is None else {SEED: seed})}
        change_params(base, Variant("", changes, missing).fill(root), where, root)  # JSON cannot hold some wrong values
        digest = hashlib.sha256(json.dumps(changes, sort_keys=True, default=str).encode()).hexdigest()[:6]
        name = "-".join([make_identifier(preset or "run"), *([] if seed is None else [f"seed{seed}"]), digest])
        variants.append(Variant(name, changes, missing))
    return variants


def check_complete(variants: Sequence[Variant]) -> None:
    """Raise ConfigError with one line for each key that a preset needs and that has no value."""
    missing = {key: meaning for variant in variants for key, meaning in variant.missing.items()}
    if missing:
        raise ConfigError("\n".join(f"--set {key}=PATH is needed: {meaning}" for key, meaning in missing.items()))
