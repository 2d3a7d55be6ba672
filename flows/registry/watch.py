"""The flow that evaluates the champion again and compares its figures with the recorded ones.

The reference statistics are computed again from the data.
"""

import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from dmd.config import load_params
from dmd.errors import UserError
from dmd.storage.files import write_text
from dmd.storage.worktree import main_worktree
from evaluation.metrics.files import read_metrics
from evaluation.metrics.measures import list_compared
from evaluation.metrics.schema import GeneratorMeasures
from flows.registry.address import download_generator
from flows.registry.champion import CHAMPION
from flows.registry.drift import DriftReport, find_drift, find_exact_differences, find_other_packages
from flows.registry.result import METRICS
from flows.registry.store import open_store
from flows.runtime.environment import project_root
from flows.runtime.file_lock import hold_lock

BUSY = "a run works in this folder and replaces what the champion is evaluated with; wait for it, or stop it"


@flow(name="watch", persist_result=False)
def watch(seed: int | None = None) -> State[Any]:
    """Evaluate the champion of the model registry again, and compare its figures with the recorded ones.

    Args:
        seed: seed of the fresh noise; by default the time in seconds
    """
    root = project_root()
    try:
        report = check_champion(root, int(time.time()) % 2**31 if seed is None else seed)
    except UserError as e:
        return Failed(message=str(e), data=e)
    path = main_worktree(root) / "runs" / "watch" / f"{time.strftime('%Y%m%d-%H%M%S')}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(report.to_dict(), indent=2) + "\n")
    create_markdown_artifact(report.text(), key="watch")
    get_run_logger().info(str(path))
    return Completed(message=report.text()) if report.steady else Failed(message=report.text())


@dataclass(frozen=True)
class Champion:
    """The champion's recorded figures and files, downloaded from the registry."""

    version: str
    measures: GeneratorMeasures  # recorded for the generator
    extractors: dict[str, str]  # identity of each feature extractor and judge
    generator: Path
    requirements: list[str]  # NAME==VERSION


def check_champion(root: Path, seed: int) -> DriftReport:
    """Evaluate the champion with the recorded noise and with fresh noise of `seed`.

    Raises UserError if there is no champion, if a run works in the project's folder, or if data, extractors or params
    differ from the recorded evaluation.
    """
    import torch

    from dmd.device import choose_device
    from dmd.generator.generator import load_generator
    from evaluation.evaluator.evaluator import Evaluator
    from evaluation.evaluator.reference import EvaluationData, build_reference
    from evaluation.features.extractors import Extractors

    params = load_params(root / "params.yaml")
    torch.set_num_threads(params.runtime.threads)
    device = choose_device(params.runtime.device, fallback=True)
    with tempfile.TemporaryDirectory() as scratch:
        champion = _load_champion(root, params.register_.name, Path(scratch))
        with hold_lock(root / "runs" / "flow.lock", BUSY):  # a run replaces the folders while its stages end
            extractors = Extractors.load(root / "artifacts" / "evaluator", params.extractors, device)
            data = EvaluationData.load(root / "artifacts" / "data", params.baseline.reference, with_images=True)
            reference = build_reference(params.baseline, data, extractors.networks)
        check_comparable(champion, extractors.identities, len(reference.labels), reference.replicates)
        evaluator, sampler = Evaluator(extractors, reference), load_generator(champion.generator, device).sampler()
        repeated, _ = evaluator.evaluate(sampler, champion.measures.seed, params.evaluate.batch_size)
        fresh, _ = evaluator.evaluate(sampler, seed, params.evaluate.batch_size)
    return DriftReport(
        model=f"models:/{params.register_.name}/{champion.version}",
        changed=find_exact_differences(champion.measures, repeated),
        drifted=find_drift(champion.measures, fresh),
        packages=find_other_packages(champion.requirements),
        seed=seed,
        recorded=_select_compared(champion.measures),
        fresh=_select_compared(fresh),
    )


def _select_compared(measures: GeneratorMeasures) -> dict[str, Any]:
    """Values of the measures that are compared, as in metrics.json."""
    values = measures.model_dump()
    return {m.name: values[m.name] for m in list_compared() if m.name in values}  # an older record has fewer


def _load_champion(root: Path, name: str, scratch: Path) -> Champion:
    """Download the champion into `scratch`. Raises UserError if there is none."""
    with open_store(root) as client:
        if not client.search_registered_models(f"name = '{name}'"):
            raise UserError(f"{name} is not in the registry; python -m flows.distill registers it")
        if CHAMPION not in client.get_registered_model(name).aliases:
            raise UserError(f"{name} has no {CHAMPION}: no version has passed the gate yet")
        version = client.get_model_version_by_alias(name, CHAMPION)
        record = Path(client.download_artifacts(str(version.run_id), "record", str(scratch)))
        generator = download_generator(version, scratch)
    metrics = read_metrics(record / METRICS.name)
    return Champion(
        version=str(version.version),
        measures=metrics.student,
        extractors={k: facts.sha256 for k, facts in metrics.provenance.extractors.items()}
        | {k: facts.identity for k, facts in metrics.provenance.judges.items()},
        generator=generator,
        requirements=(scratch / "model/requirements.txt").read_text().split(),
    )


def check_comparable(champion: Champion, extractors: dict[str, str], samples: int, replicates: int) -> None:
    """Raise UserError if the champion was evaluated with other extractors or judges, or another number of images."""
    recorded = {
        "extractors": champion.extractors,
        "samples": champion.measures.samples,
        "draws": champion.measures.replicates,
    }
    for key, value in {"extractors": extractors, "samples": samples, "draws": replicates}.items():
        if recorded[key] != value:
            raise UserError(
                f"version {champion.version} was evaluated with other {key} than this workspace has; "
                "check out its commit and run `dvc repro`"
            )
