"""`python -m flows.watch`: is the champion still what the registry says? Judged again here and now.

Once with the recorded noise, which must give the recorded figures to the last digit: where it does not, libraries, data
or hardware have changed. Once with fresh noise, whose figures must agree within the noise. The reference statistics are
computed anew from the data. Exit code 0: steady; 1: not, or it could not be done.
"""

import argparse
import json
import math
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from dmd.config import load_params
from dmd.data.splits import load_split, load_splits
from dmd.errors import ConfigError, UserError
from dmd.storage.files import write_text
from dmd.storage.worktree import main_worktree
from flows.registry.champion import CHAMPION
from flows.registry.gate import MEASURES
from flows.registry.store import opened
from flows.runtime import start
from flows.runtime.command import exit_code
from flows.services.servers import use_running


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m flows.watch", description=__doc__)
    parser.add_argument("--seed", type=int, help="of the fresh noise; the time of day by default")
    args = parser.parse_args(argv)
    return exit_code(lambda: _run(Path.cwd(), args.seed))


def _run(root: Path, seed: int | None) -> int:
    if not (root / "dvc.yaml").is_file():
        raise ConfigError(f"{root} has no dvc.yaml: run this in the project's own folder")
    load_params(root / "params.yaml")
    use_running(root)
    start.connect(root)
    state = watch(root, seed, return_state=True)
    print(state.message)
    return 0 if state.is_completed() else 1


@flow(name="watch", persist_result=False)
def watch(root: Path | None = None, seed: int | None = None) -> State[Any]:
    """Judge the champion of the model registry again, and compare with the figures that are recorded for it.

    Args:
        root: the project's folder; empty for the one the flow is served from
        seed: of the fresh noise; empty for one that differs from run to run
    """
    root = (root or Path.cwd()).resolve()
    try:
        found = look(root, int(time.time()) % 2**31 if seed is None else seed)
    except UserError as e:
        return Failed(message=str(e), data=e)
    path = main_worktree(root) / "runs" / "watch" / f"{time.strftime('%Y%m%d-%H%M%S')}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(found, indent=2) + "\n")
    text = words(found)
    create_markdown_artifact(text, key="watch")
    get_run_logger().info(str(path))
    return Completed(message=text) if found["steady"] else Failed(message=text)


def look(root: Path, seed: int) -> dict[str, Any]:
    """What was found, with numbers. Raises UserError where the champion cannot be judged here as it was then."""
    import torch

    from dmd.device import choose_device
    from dmd.generator.generator import load_generator
    from evaluation.evaluator.evaluator import Judge, Panel
    from stages.baseline import SPLITS, make_reference

    params = load_params(root / "params.yaml")
    torch.set_num_threads(params.runtime.threads)
    device = choose_device(params.runtime.device, fallback=True)
    with tempfile.TemporaryDirectory() as scratch:
        version, recorded, folder, pins = _champion(root, params.register_.name, Path(scratch))
        data, evaluator = root / "artifacts" / "data", root / "artifacts" / "evaluator"
        panel = Panel.load(evaluator, params.extractors, device)
        train, test = load_split(data, "train"), load_split(data, "test")
        real = load_splits(data, SPLITS[params.baseline.reference])
        reference = make_reference(params, train, real, test, panel.extractors)
        judge, sampler = Judge(panel, reference), load_generator(folder, device).sampler()
        judged = {k: facts.sha256 for k, facts in panel.facts(reference.features).items()}
        _check_same_measure(version, recorded, judged, len(reference.labels), reference.draws)
        again, _ = judge.judge(sampler, recorded["seed"], params.evaluate.batch_size)
        fresh, _ = judge.judge(sampler, seed, params.evaluate.batch_size)
    changed = exact_differences(recorded, again.model_dump())
    drifted = drift(recorded, fresh.model_dump())
    return {
        "model": f"models:/{params.register_.name}/{version}",
        "steady": not changed and not drifted,
        "changed": changed,
        "drifted": drifted,
        "packages": _other_versions(pins),
        "seed": seed,
        "recorded": {kind: recorded[kind] for kind in MEASURES},
        "fresh": {kind: fresh.model_dump()[kind] for kind in MEASURES},
    }


def _champion(root: Path, name: str, scratch: Path) -> tuple[str, dict[str, Any], Path, list[str]]:
    """Its version, the student's recorded measures with the judges', its folder, and the packages it was made with."""
    with opened(root) as client:
        import mlflow

        if not client.search_registered_models(f"name = '{name}'"):
            raise UserError(f"{name} is not in the registry; python -m flows.distill puts it there")
        if CHAMPION not in client.get_registered_model(name).aliases:
            raise UserError(f"{name} has no {CHAMPION}: no version has passed the gate yet")
        found = client.get_model_version_by_alias(name, CHAMPION)
        metrics = json.loads(
            Path(client.download_artifacts(str(found.run_id), "record/metrics.json", str(scratch))).read_text()
        )
        model = Path(
            mlflow.artifacts.download_artifacts(f"models:/{name}/{found.version}", dst_path=str(scratch / "m"))
        )
    judges = {k: facts["sha256"] for k, facts in metrics["judged"]["extractors"].items()}
    pins = (model / "requirements.txt").read_text().split()
    folder = next(model.rglob("generator.json")).parent
    return str(found.version), {**metrics["student"], "judges": judges}, folder, pins


def _check_same_measure(
    version: str, recorded: dict[str, Any], judges: dict[str, str], samples: int, draws: int
) -> None:
    here = {"judges": judges, "samples": samples, "draws": draws}
    for what, value in here.items():
        if recorded[what] != value:
            raise UserError(f"version {version} was judged with other {what} than are here; check out its commit")


def exact_differences(recorded: dict[str, Any], again: dict[str, Any]) -> list[str]:
    """Figures that are not the same to the last digit."""
    return [
        f"{kind} {judge}: {value!r} recorded, {again[kind][judge]!r} now"
        for kind in MEASURES
        for judge, value in recorded[kind].items()
        if again[kind][judge] != value
    ]


def drift(recorded: dict[str, Any], fresh: dict[str, Any]) -> list[str]:
    """Figures that fresh noise moves by more than the noise of both."""
    found = []
    for kind in MEASURES:
        for judge, value in recorded[kind].items():
            now = fresh[kind][judge]
            noise = math.hypot(*(_half(side["interval"][kind][judge]) for side in (recorded, fresh)))
            if abs(now - value) > noise:
                found.append(f"{kind} {judge}: {value:.4g} recorded, {now:.4g} with fresh noise, noise {noise:.2g}")
    return found


def _half(interval: dict[str, float]) -> float:
    return (interval["high"] - interval["low"]) / 2


def _other_versions(pins: list[str]) -> list[str]:
    found = []
    for pin in pins:
        name, _, then = pin.partition("==")
        try:
            now = installed(name).partition("+")[0]
        except PackageNotFoundError:
            now = "not installed"
        if now != then:
            found.append(f"{name} {then} then, {now} now")
    return found


def words(found: dict[str, Any]) -> str:
    """For people."""
    if found["steady"]:
        return f"{found['model']}: steady; the recorded noise gives the recorded figures, fresh noise agrees with them"
    lines = [f"{found['model']}: not steady"]
    for key, title in (
        ("changed", "the recorded noise gives other figures: libraries, data or hardware have changed"),
        ("drifted", "fresh noise gives figures outside the noise"),
        ("packages", "packages of other versions"),
    ):
        if found[key]:
            lines += [f"{title}:", *(f"- {line}" for line in found[key])]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
