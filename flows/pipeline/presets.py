"""Changes to params.yaml that a run may ask for: a preset (experiments/presets/NAME.yaml), overrides, seeds."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from dmd.errors import ConfigError
from flows.pipeline.changes import Change, Changes, change_params

FOLDER = Path("experiments/presets")


class Preset(BaseModel):
    """The file: a description, and dotted keys of params.yaml with their values."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    description: str = Field(min_length=1)
    changes: dict[str, Change | list[int]]
    needs: dict[str, str] = Field(default={}, description="keys that only the user can fill in, and what with")


@dataclass(frozen=True)
class Variant:
    """What a run does elsewhere than in the workspace: its changes, and the experiment it becomes."""

    experiment: str
    changes: Changes
    missing: Mapping[str, str] = field(default_factory=dict)  # key -> what the user has yet to give

    def fill(self, root: Path) -> dict[str, Change | list[int]]:
        """The changes, with an existing folder in place of what is missing: enough for the schema and for a plan."""
        return {**self.changes, **dict.fromkeys(self.missing, str(root / FOLDER))}


def list_presets(root: Path) -> list[str]:
    """Names of the presets."""
    return sorted(path.stem for path in (root / FOLDER).glob("*.yaml"))


def load_preset(root: Path, name: str) -> Preset:
    """Raises ConfigError with one line for each mistake."""
    path = root / FOLDER / f"{name}.yaml"
    if name not in list_presets(root):
        raise ConfigError(f"there is no preset {name!r}; {FOLDER}/ has {', '.join(list_presets(root)) or 'none'}")
    try:
        return Preset.model_validate(YAML(typ="safe").load(path) or {})
    except YAMLError as e:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(e).split())}") from None
    except ValidationError as e:
        lines = (f"{path}: {'.'.join(map(str, x['loc']))}: {x['msg'].lower()}" for x in e.errors())
        raise ConfigError("\n".join(lines)) from None


def make_variants(root: Path, preset: str | None, overrides: Changes, seeds: Sequence[int]) -> list[Variant]:
    """One for each seed; none where nothing is asked for. Raises ConfigError for what params.yaml does not allow.

    What a preset needs from the user and was not given stands in `missing`, not in the changes.
    """
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f"seeds: {', '.join(map(str, seeds))}: one is there twice")
    base = YAML(typ="safe").load(root / "params.yaml")
    chosen = load_preset(root, preset) if preset is not None else Preset(description="none", changes={})
    common = {**chosen.changes, **overrides}
    missing = {key: what for key, what in chosen.needs.items() if key not in common}
    if not common and not seeds and not preset:
        return []
    made = []
    for seed in seeds or [None]:
        changes = {**common, **({} if seed is None else {"train.seed": seed})}
        digest = hashlib.sha256(json.dumps(changes, sort_keys=True, default=str).encode()).hexdigest()[:6]
        name = "-".join([preset or "run", *([] if seed is None else [f"seed{seed}"]), digest])
        variant = Variant(name, changes, missing)
        change_params(base, variant.fill(root), f"preset {preset}" if preset else "overrides", root)
        made.append(variant)
    return made


def check_complete(variants: Sequence[Variant]) -> None:
    """Raise ConfigError, with one line for each key that a preset leaves to the user and that was not given."""
    missing = {key: what for variant in variants for key, what in variant.missing.items()}
    if missing:
        raise ConfigError("\n".join(f"--set {key}=PATH is needed: {what}" for key, what in missing.items()))
