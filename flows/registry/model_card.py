"""The card of a registered version: its figures, its origin and the command that reproduces it."""

import pandas as pd

from dmd.config import EVERYWHERE, Params, TeacherConfig
from evaluation.report.table import format_cells, summary_table
from flows.registry.description import describe_result
from flows.registry.result import Result

CARD = """# {name}

This generator takes {passes} per image. It was distilled from a diffusion model (`method.name: {method}`).

| | |
|---|---|
| data | {data} |
| teacher | {teacher} |
| student | {student} |
| licence | {licence} |

## Measures

{subject}

{table}

FD is the Fréchet distance between the generated and the training images; lower is better. It is the mean over
{replicates} replicates of {samples:,} images, each from other noise, ± half the width of its 95 % interval. FD∞ is FD
extrapolated to infinitely many images. Feature extractors (sha256): {extractors}. FD of the student over FD of the
teacher's best sampler: {ratios}.

## Origin

{lineage}

Samples, training curves and the report are artifacts of the MLflow run `{run}`. This command runs the pipeline again
and compares the weights byte by byte: `python -m flows.reproduce models:/{name}/VERSION`.
"""


def model_card(result: Result, lineage: dict[str, str], run: str) -> str:
    """Markdown text of the card; `lineage` holds tags of the version, `run` is the id of its MLflow run."""
    from dmd.generator.export import describe_training  # imports torch and diffusers, which takes seconds

    params, student = result.params, result.metrics.student
    return CARD.format(
        name=params.register_.name,
        passes="one network pass" if student.nfe == 1 else f"{student.nfe} network passes",
        method=params.method.title,
        data=f"{params.data.source}, md5 {result.data_md5}",
        teacher=f"{_describe_teacher(params.teacher)}, {_describe_guidance(params)}",
        student=f"{describe_training(params.method, params.train)}, train.seed {params.train.seed}",
        licence=params.register_.licence,
        subject=describe_result(result.root, params, result.metrics),
        table=markdown(format_cells(summary_table(result.metrics, result.timing))),
        replicates=student.replicates,
        samples=student.samples,
        extractors=", ".join(f"{k} {v.sha256[:12]}" for k, v in result.metrics.provenance.extractors.items()),
        ratios=str(result.metrics.ratio),
        lineage="\n".join(f"- `{key}` {value}" for key, value in sorted(lineage.items())),
        run=run,
    )


def _describe_teacher(cfg: TeacherConfig) -> str:
    if cfg.source == "hub":
        return f"{cfg.hub_id} at {cfg.revision}"
    if cfg.source == "folder":
        return f"the folder {cfg.folder}"
    return f"{cfg.network}, {cfg.prediction_type}, trained here for {cfg.steps} steps, teacher.seed {cfg.seed}"


def _describe_guidance(params: Params) -> str:
    if (guidance := params.guidance).scale == 1:
        return "no guidance"
    is_everywhere = guidance.interval == EVERYWHERE
    interval = "" if is_everywhere else f" for t in {list(guidance.interval)} T"
    rescaling = f", rescaled by {guidance.rescale}" if guidance.rescale else ""
    return f"guidance {guidance.scale}{interval}{rescaling}"


def markdown(table: pd.DataFrame) -> str:
    """Format a table of strings in Markdown."""
    head = ["", *map(str, table.columns)]
    rows = [[str(name), *map(str, row)] for name, row in zip(table.index, table.to_numpy().tolist(), strict=True)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *rows))
