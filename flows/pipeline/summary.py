"""The text that a run prints at its end: tables, where the results are, and the next commands."""

import json
import os
import shutil
import statistics
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from dmd.config import load_params
from evaluation.metrics.files import read_metrics
from evaluation.metrics.schema import Metrics, read_model
from evaluation.report.table import align, format_table, summary_table
from evaluation.timing.schema import Timing
from flows.pipeline.experiments import fetch_generator, result_folder
from flows.registry.description import describe_result
from flows.registry.result import GENERATOR, METRICS, REPORT, TIMING
from flows.registry.store import database, shown_uri
from flows.registry.versions import CANDIDATE

WIDTH = 120  # columns of a terminal that the text fits
# The table of experiments in WIDTH columns: the ratio by each extractor, and the parameters that differ.
COMPARE = r"dvc exp show --only-changed --hide-workspace --drop '(?!Experiment|ratio.fd|method|train\.)'"


def summarize(root: Path, version: str | None) -> str:
    """Return teacher and student in a table, the report, the model version and the next commands.

    version: None if the result is not registered
    """
    name = load_params(root / "params.yaml").register_.name
    uri = shown_uri(root)
    lines = [
        *_describe(root),
        f"report:     {REPORT}",
        f"generator:  {GENERATOR}",
        f"model:      {f'{name} version {version}, models:/{name}@{CANDIDATE}' if version else 'not registered'}",
        f"MLflow:     {uri}",
        "",
        "next:",
        f"  {_open(REPORT)}",
        *(f"  {command}" for command in _activation(root)),
        f"  {_sample(root, GENERATOR)}",
        "  dvc exp run -S train.seed=1    # runs train and evaluate only; then: dvc exp show",
        f"  {_look_at_runs(uri)}    # runs, and versions of {name}",
    ]
    return "\n".join(lines)


def summarize_experiments(root: Path, names: Sequence[str]) -> str:
    """Return the table of each experiment, the mean over all of them, where the results are, and the next commands."""
    folders = {name: result_folder(root, name) for name in names}
    shown = {name: Path(os.path.relpath(folder, root)) for name, folder in folders.items()}
    lines: list[str] = []
    for name, folder in folders.items():
        has_generator = (folder / GENERATOR).is_dir()
        generator = str(shown[name] / GENERATOR) if has_generator else f"in DVC's cache: {fetch_generator(name)}"
        lines += [f"{name}:", *_describe(folder), f"report:     {shown[name] / REPORT}", f"generator:  {generator}", ""]
    if len(names) > 1:
        lines += [*format_mean({name: read_metrics(folder / METRICS) for name, folder in folders.items()}), ""]
    last, uri = names[-1], shown_uri(root)
    sample = [_sample(folders[last], shown[last] / GENERATOR)] if (folders[last] / GENERATOR).is_dir() else []
    commands = [_open(shown[last] / REPORT), *_activation(root), *sample, *list_next_steps(last, uri)]
    return "\n".join([*lines, f"MLflow:     {uri}", "", "next:", *(f"  {command}" for command in commands)])


def list_next_steps(experiment: str, uri: str) -> list[str]:
    """Commands to compare experiments and to take one over."""
    take = f"dvc exp apply {experiment}    # take its files into the workspace; then: git commit -am MESSAGE"
    return [COMPARE, take, f"{_look_at_runs(uri)}    # runs and versions"]


def format_mean(metrics: Mapping[str, Metrics]) -> list[str]:
    """Lines of a table of the ratio and the recall of each experiment by each extractor, and the mean over them."""
    first = next(iter(metrics.values()))
    columns = {}
    for k in first.ratio.fd:
        columns["FD ratio", k + first.ratio.mark(k)] = [m.ratio.fd[k] for m in metrics.values()]
    for k in first.ratio.fd:
        columns["recall", k] = [m.student.values("recall").get(k, float("nan")) for m in metrics.values()]
    head = [["", *(title for title, _ in columns)], ["", *(extractor for _, extractor in columns)]]
    rows = [[name, *(f"{v[i]:.3f}" for v in columns.values())] for i, name in enumerate(metrics)]
    means = [f"{statistics.fmean(v):.3f} ± {statistics.stdev(v):.3f}" for v in columns.values()]
    table = align(head, [*rows, ["mean ± std", *means]])
    words = "FD ratio: FD of the student over the teacher's best sampler's, lower is better. Recall: higher is better."
    return [*table.splitlines(), "", words]


def _describe(folder: Path) -> list[str]:
    """The table of teacher and student, what it is of, and the ratio."""
    metrics, timing = read_metrics(folder / METRICS), read_model(Timing, folder / TIMING)
    words = describe_result(folder, load_params(folder / "params.yaml"), metrics, headline=True)
    ratio = f"FD, student / best teacher: {metrics.ratio}"
    return [format_table(summary_table(metrics, timing)), "", *textwrap.wrap(words, WIDTH), "", ratio]


def _open(page: Path) -> str:
    return f"{'open' if sys.platform == 'darwin' else 'xdg-open'} {page}"


def _look_at_runs(uri: str) -> str:
    return f"mlflow ui --backend-store-uri '{uri}'" if database(uri) else f"open {uri}"


def _sample(folder: Path, generator: Path) -> str:
    """The command that makes images with the generator of a result."""
    classes = json.loads((folder / GENERATOR / "generator.json").read_text()).get("classes", [])
    labels = ",".join(str(i) for i in range(min(3, max(1, len(classes)))))
    return f"python -m dmd.sample --generator {generator} --labels {labels} --seed 0 --out grid.png"


def _activation(root: Path) -> list[str]:
    """Return the command that activates this environment; an empty list if it is active.

    DVC's stages call `python`, which must be this interpreter.
    """
    folder = Path(sys.executable).parent
    if shutil.which("python") == str(folder / "python"):
        return []
    return [f"source {os.path.relpath(folder, root) if folder.is_relative_to(root) else folder}/activate"]
