"""Files and options of parameters: params.yaml, presets, ablations, searches, `--set`."""

import io
import random
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from benchmarks.fuzzing.limits import DamagedResultError
from benchmarks.fuzzing.mutations import HOSTILE, VALUES, change_text, change_tree
from dmd.config import Params, load_params, validate
from dmd.config_paths import load_run_params
from dmd.errors import UserError
from flows.ablation.plan import load_plan
from flows.distill import parse_overrides
from flows.pipeline.changes import change_file, change_params
from flows.pipeline.presets import make_variants
from flows.registry.gate import check_gate
from flows.tuning.plan import load_plan as load_search

ROOT = Path(__file__).resolve().parents[2]
FUZZED = "fuzzed"


def build_project(folder: Path) -> None:
    """Copy what these files are checked against."""
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, folder / name)
    shutil.copytree(ROOT / "experiments", folder / "experiments")
    (folder / "none").mkdir()
    (folder / "zoo").symlink_to(ROOT / "zoo")


def change_yaml(rng: random.Random, file: Path) -> str:
    """Change values of a YAML file, or its text."""
    if rng.randrange(3) == 0:
        return change_text(rng, file)
    tree = YAML(typ="safe").load(file)
    what = "; ".join(change_tree(rng, tree) for _ in range(rng.choice((1, 1, 2))) if tree)
    out = io.BytesIO()
    try:
        YAML(typ="safe").dump(tree, out)
    except ValueError:  # an integer of thousands of digits
        out = io.BytesIO(b"a: 1" + b"0" * 5000)
    except RecursionError:
        out = io.BytesIO(b"a: " + b"[" * 500 + b"]" * 500)
    file.write_bytes(out.getvalue())
    return f"{file.name}: {what}"


class ParamsFile:
    """params.yaml."""

    refusals = (UserError,)
    build = staticmethod(build_project)

    def damage(self, rng: random.Random, folder: Path) -> str:
        return change_yaml(rng, folder / "params.yaml")

    def use(self, folder: Path) -> str:
        params = load_run_params(folder / "params.yaml", folder)
        from dmd.distillation.methods import check_method  # imports torch, which the other kinds need not wait for

        check_method(params)
        return check_params(params)


def check_params(params: Params) -> str:
    """Check the gate, and that the schema accepts what it has read."""
    check_gate(params.register_.gate)
    if validate(params.model_dump(by_alias=True), "again") != params:
        raise DamagedResultError("the parameters are other ones when they are read again")
    return "valid parameters"


class PresetFile:
    """A preset, a changed copy of one of the project's."""

    refusals = (UserError,)
    build = staticmethod(build_project)

    def damage(self, rng: random.Random, folder: Path) -> str:
        files = sorted((folder / "experiments/presets").glob("*.yaml"))
        copy = Path(shutil.copy(rng.choice(files), folder / f"experiments/presets/{FUZZED}.yaml"))
        return change_yaml(rng, copy)

    def use(self, folder: Path) -> str:
        name = FUZZED if (folder / f"experiments/presets/{FUZZED}.yaml").exists() else "quick"
        return check_variants(folder, name, {}, [])


def check_variants(folder: Path, preset: str | None, overrides: dict[str, Any], seeds: list[int]) -> str:
    """Make the variants of a run, write each to a params.yaml as the run does, and read it again."""
    variants = make_variants(folder, preset, overrides, seeds)
    base = YAML(typ="safe").load(folder / "params.yaml")
    for variant in variants:
        changes = variant.fill(folder)
        params = validate(change_params(base, changes, variant.experiment, folder), variant.experiment)
        with copy_of(folder / "params.yaml") as file:
            change_file(changes, file)
            if load_params(file) != params:
                raise DamagedResultError("params.yaml holds other values than the variant")
        check_params(params)
    return f"{len(variants)} variants"


@contextmanager
def copy_of(file: Path) -> Iterator[Path]:
    """A copy of a file, removed at the end."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(shutil.copy(file, folder))


class AblationFile:
    """An ablation, a changed copy of one of the project's."""

    refusals = (UserError,)
    folder, load = "ablations", staticmethod(load_plan)
    build = staticmethod(build_project)

    def damage(self, rng: random.Random, folder: Path) -> str:
        place = folder / "experiments" / self.folder
        copy = Path(shutil.copy(rng.choice(sorted(place.glob("*.yaml"))), place / f"{FUZZED}.yaml"))
        return change_yaml(rng, copy)

    def use(self, folder: Path) -> str:
        place = folder / "experiments" / self.folder
        file = place / f"{FUZZED}.yaml"
        plan: Any = self.load(folder, file if file.exists() else min(place.glob("*.yaml")))
        names = [member.experiment for member in getattr(plan, "members", [])]
        if len(set(names)) < len(names):
            raise DamagedResultError("two members have one name")
        return f"a plan with {len(names)} members"


class SearchFile(AblationFile):
    """A search, a changed copy of one of the project's."""

    folder, load = "searches", staticmethod(load_search)


class SetOption:
    """Words of `--set`, with or without a preset."""

    refusals = (UserError,)
    build = staticmethod(build_project)

    def damage(self, rng: random.Random, folder: Path) -> str:
        keys = [f"{group}.{key}" for group, values in _groups(folder).items() for key in values]
        words = [self._word(rng, keys) for _ in range(rng.choice((1, 1, 2)))]
        (folder / "words").write_bytes(b"\0".join(word.encode(errors="surrogateescape") for word in words))
        (folder / "preset").write_text(rng.choice(("", "quick", "cifar10")))
        return f"--set {' '.join(word[:60] for word in words)}"

    def _word(self, rng: random.Random, keys: list[str]) -> str:
        key = rng.choice(keys) if rng.randrange(3) else rng.choice(("", "a", "train", "..", "train.", ".x", "a" * 9999))
        try:
            value = str(rng.choice((*VALUES, HOSTILE[rng.randrange(len(HOSTILE))].decode(errors="surrogateescape"))))
        except ValueError:
            value = "9" * 5000
        return f"{key}{rng.choice(('=', '=', '=', '==', '', '= '))}{value}".replace("\0", "")

    def use(self, folder: Path) -> str:
        file = folder / "words"
        words = file.read_bytes().decode(errors="surrogateescape").split("\0") if file.exists() else ["train.seed=3"]
        preset = (folder / "preset").read_text() if file.exists() else ""
        return check_variants(folder, preset or None, parse_overrides(words), [])


def _groups(folder: Path) -> dict[str, dict[str, Any]]:
    return YAML(typ="safe").load(folder / "params.yaml")
