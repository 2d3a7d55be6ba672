"""The card of a registered version: what it is, how good, what it came from, and how to make it again."""

from typing import Any

import pandas as pd

from evaluation.report.table import cells, summary_table
from flows.registry.record import Record

CARD = """# {name}

A generator of {steps} per image, distilled from a diffusion model by Distribution Matching Distillation
(`method.name: {method}`).

| | |
|---|---|
| data | {data} |
| teacher | {teacher} |
| student | {student} |
| licence | {licence} |

## Measures

{table}

FD is the Fréchet distance to the training images, lower is better: the mean over {draws} noise draws of {samples:,}
images, ± half of its 95 % interval; FD∞ its extrapolation to infinitely many. Judges: {judges}. Student over the
teacher's best sampler: {ratios}.

## Where it comes from

{lineage}

Samples, curves and the report are artifacts of run `{run}`. The same weights again, to the byte:
`python -m flows.reproduce models:/{name}/VERSION`.
"""


def model_card(record: Record, tags: dict[str, str], run: str) -> str:
    """Markdown; tags are the lineage."""
    p, student = record.params, record.metrics["student"]
    captions = f"guidance {p.guidance.scale}" if p.guidance.scale != 1 else "no guidance"
    return CARD.format(
        name=p.register_.name,
        steps="one network pass" if student["nfe"] == 1 else f"{student['nfe']} network passes",
        method=p.method.name,
        data=f"{p.data.source}, md5 {record.data_md5}",
        teacher=_teacher(p.teacher.model_dump()) + f", {captions}",
        student=f"{p.train.generator_turns} turns of distribution matching, train.seed {p.train.seed}",
        licence=p.register_.licence,
        table=markdown(cells(summary_table(record.metrics, record.timing))),
        draws=student["draws"],
        samples=student["samples"],
        judges=", ".join(f"{k} {v['sha256'][:12]}" for k, v in record.metrics["judged"]["extractors"].items()),
        ratios=", ".join(f"{k} {v:.3f}" for k, v in record.metrics["ratio"]["fd"].items()),
        lineage="\n".join(f"- `{key}` {value}" for key, value in sorted(tags.items())),
        run=run,
    )


def _teacher(cfg: dict[str, Any]) -> str:
    if cfg["source"] == "hub":
        return f"{cfg['hub_id']} at {cfg['revision']}"
    if cfg["source"] == "folder":
        return f"the folder {cfg['folder']}"
    return (
        f"{cfg['network']}, {cfg['prediction_type']}, trained here for {cfg['steps']} steps, teacher.seed {cfg['seed']}"
    )


def markdown(table: pd.DataFrame) -> str:
    """A table of text as Markdown."""
    head = ["", *map(str, table.columns)]
    rows = [[str(name), *map(str, row)] for name, row in zip(table.index, table.to_numpy().tolist(), strict=True)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *rows))
