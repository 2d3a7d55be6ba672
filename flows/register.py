"""`python -m flows.register`: put the workspace's generator into MLflow's registry, once, without a pickle.

The newest version is `candidate`; the gate of params.yaml says which one is `champion`.
"""

import argparse
import sys
from importlib.metadata import version as installed
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dmd.config import load_params
from dmd.errors import UserError
from dmd.storage.worktree import main_worktree
from flows.registry.champion import CHAMPION, FIGURES, VERDICT, champion, promote, rollback, settle
from flows.registry.gate import figures_of
from flows.registry.model_card import model_card
from flows.registry.record import GENERATOR, RESULT, Record, numbers, read_record
from flows.registry.store import database, opened, tracking_uri
from flows.registry.tracking import find_run, publish
from flows.runtime.command import exit_code
from flows.runtime.roots import only_one

if TYPE_CHECKING:
    from mlflow import MlflowClient

ALIAS = "candidate"
CODE = Path(__file__).parent / "registry" / "pyfunc_generator.py"
NEEDS = ("mlflow", "torch", "diffusers", "transformers", "safetensors", "numpy", "pandas", "pillow")
LINEAGE = ("git.sha", "git.dirty", "dvc.lock.sha256", "dvc.data.md5", "params.sha256", "prefect.flow_run_id")


def register(root: Path, run_id: str) -> str:
    """The version that holds this result, new only where there is none; the alias `candidate` names it afterwards.

    Then the gate says which version is champion.
    """
    record = read_record(root)
    name = record.params.register_.name
    with only_one(main_worktree(root) / "runs" / "publish.lock"), opened(root) as client:
        version = find_version(client, name, record.result) or _new_version(client, record, run_id)
        if _candidate(client, name) != version:
            client.set_registered_model_alias(name, ALIAS, version)
        settle(client, name, record.params.register_.gate)
        return version


def verdict_of(root: Path, version: str) -> str:
    """What the gate said of a version, and who is champion."""
    name = read_record(root).params.register_.name
    with opened(root) as client:
        said = client.get_model_version(name, version).tags.get(VERDICT, "registered before there was a gate")
        return f"{said}; {CHAMPION}: version {champion(client, name) or 'none'}"


def registered(root: Path) -> str | None:
    """The candidate's version, if it is this very result and its run is complete; changes nothing."""
    file = database(tracking_uri(root))
    if file and not file.exists():
        return None
    record = read_record(root)
    name = record.params.register_.name
    with opened(root) as client:
        experiment = client.get_experiment_by_name(record.params.register_.experiment)
        if experiment is None or find_run(client, experiment.experiment_id, record.result) is None:
            return None
        version = find_version(client, name, record.result)
        return version if version and _candidate(client, name) == version else None


def _candidate(client: "MlflowClient", name: str) -> str:
    return str(client.get_registered_model(name).aliases.get(ALIAS))


def find_version(client: "MlflowClient", name: str, result: str) -> str | None:
    versions = client.search_model_versions(f"name = '{name}' and tags.`{RESULT}` = '{result}'")
    ready = [int(v.version) for v in versions if v.status == "READY"]
    return str(min(ready)) if ready else None


def _new_version(client: "MlflowClient", record: Record, run_id: str) -> str:
    import mlflow
    from mlflow.models import Model

    run = client.get_run(run_id)
    if run.data.tags.get(RESULT) != record.result:
        raise UserError(f"the MLflow run {run_id} holds another result than the workspace; publish this one first")
    # Without this, the model's files go to MLflow's default experiment, in the working directory.
    mlflow.set_experiment(experiment_id=run.info.experiment_id)
    logged = Model.log(
        artifact_path=None,
        name="generator",
        flavor=mlflow.pyfunc,
        run_id=run_id,  # the run is finished and stays so: log_model would open it again
        python_model=str(CODE),
        artifacts={"generator": str(record.root / GENERATOR)},
        signature=_signature(),
        input_example=_example(),
        pip_requirements=[f"{package}=={installed(package).partition('+')[0]}" for package in NEEDS],
    )
    name, origin = record.params.register_.name, _lineage(run.data.tags)
    tags = {**_headline(record), **origin, FIGURES: figures_of(record.metrics).to_json()}
    version = str(mlflow.register_model(logged.model_uri, name, tags=tags).version)
    card = model_card(record, origin, run_id)
    client.update_model_version(name, version, description=card.replace("/VERSION", f"/{version}"))
    client.log_text(run_id, card, "model_card.md")
    return version


def _headline(record: Record) -> dict[str, str]:
    """What a list of versions should show."""
    student = record.metrics["student"]
    figures = {**numbers(student["fd"], "fd"), **numbers(record.metrics["ratio"]["fd"], "ratio")}
    figures |= {k: v for k in ("clip_score", "nfe") if (v := student[k]) is not None}  # no score without conditions
    return {RESULT: record.result, **{key: f"{value:.6g}" for key, value in figures.items()}}


def _lineage(tags: dict[str, str]) -> dict[str, str]:
    return {key: tags[key] for key in LINEAGE if key in tags}


def _signature() -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

    return ModelSignature(
        inputs=Schema([ColSpec("long", "label", required=False), ColSpec("string", "prompt", required=False)]),
        outputs=Schema([ColSpec("string", "png")]),
        params=ParamSchema([ParamSpec("seed", "long", 0), ParamSpec("images", "long", 1)]),
    )


def _example() -> Any:
    import pandas as pd

    return pd.DataFrame({"label": [0]}), {"seed": 0, "images": 1}


def main() -> int:
    """Publish if necessary, then register; or change who is champion. Prints name, version, alias and why."""
    parser = argparse.ArgumentParser(prog="python -m flows.register", description=__doc__)
    other = parser.add_mutually_exclusive_group()
    other.add_argument("--rollback", action="store_true", help="withdraw the champion and go back to the last one")
    other.add_argument("--promote", metavar="VERSION", help="champion by hand; auto gives the choice back to the gate")
    args = parser.parse_args()
    return exit_code(lambda: _change(args) if args.rollback or args.promote else _register())


def _register() -> int:
    root = Path.cwd()
    record = read_record(root)
    version = register(root, publish(root))
    print(f"{record.params.register_.name} version {version} ({ALIAS}): {verdict_of(root, version)}")
    return 0


def _change(args: argparse.Namespace) -> int:
    root = Path.cwd()
    cfg = load_params(root / "params.yaml").register_
    with only_one(main_worktree(root) / "runs" / "publish.lock"), opened(root) as client:
        if not client.search_registered_models(f"name = '{cfg.name}'"):
            raise UserError(f"{cfg.name} is not in the registry of {tracking_uri(root)}")
        if args.rollback:
            withdrawn, now = rollback(client, cfg.name)
            print(f"{cfg.name} version {withdrawn} withdrawn; {CHAMPION}: version {now}")
        else:
            print(f"{cfg.name}: {CHAMPION}: version {promote(client, cfg.name, args.promote, cfg.gate)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
