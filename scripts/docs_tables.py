"""Writes the tables and figures of README.md and docs/ from the files that they come from, or checks them.

    python scripts/docs_tables.py            # rewrite every table whose file has changed
    python scripts/docs_tables.py --check    # print each line that is out of date; exit code 1 if there is any
    python scripts/docs_tables.py --hardware # run --dry-run for each preset and rewrite the hardware table (2 minutes)

A table stands between <!-- table NAME --> and <!-- end -->. scripts/docs_claims.py lists the
sentences that contain a figure.
"""

import argparse
import difflib
import json
import math
import re
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from evaluation.metrics.files import read_metrics  # noqa: E402
from evaluation.metrics.measures import MEASURES  # noqa: E402
from evaluation.metrics.schema import read_model  # noqa: E402
from evaluation.report.table import format_cells, sampler_title, summary_table  # noqa: E402
from evaluation.timing.schema import Timing  # noqa: E402
from scripts.docs_claims import CLAIMS, cell  # noqa: E402
from scripts.docs_hardware import PLANS, hardware_table  # noqa: E402
from scripts.docs_speed import SPEED_TABLES  # noqa: E402

# README.md comes last: it repeats figures of docs/hardware.md.
PAGES = (*(p.relative_to(ROOT) for p in sorted((ROOT / "docs").rglob("*.md"))), Path("README.md"))
TABLE = re.compile(r"(<!-- table (?P<name>\w+) -->\n)(?P<body>.*?)(<!-- end -->)", re.DOTALL)
Row = Sequence[str]


def read(path: str) -> Any:
    """Read a JSON file of the repository."""
    return json.loads((ROOT / path).read_text())


def markdown(head: Row, rows: Sequence[Row]) -> str:
    """Format a table whose first column is text and whose other columns are figures."""
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def figure(value: float) -> str:
    """Format a figure with three significant digits, without an exponent."""
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}"


def sampler_table(folder: str, columns: str) -> str:
    """Table of every sampler of a run, with the columns whose names match the pattern `columns`."""
    metrics = read_metrics(ROOT / folder / "metrics.json")
    text = format_cells(summary_table(metrics, read_model(Timing, ROOT / folder / "timing.json")))
    kept = [c for c in text.columns if re.match(columns, c)]
    return markdown(["", *kept], [[str(name), *text.loc[name, kept]] for name in text.index])


def measures() -> str:
    """Table of the measures in evaluation/metrics/measures.py."""
    rows = [f"| `{m.name}` | {m.better} | {m.unit} | {m.description} |\n" for m in MEASURES.values()]
    return "| measure | better | unit | meaning |\n|---|---|---|---|\n" + "".join(rows)


def results() -> str:
    """README's table: one row per run and feature extractor."""
    rows: list[Row] = []
    for name, folder in (
        ("digits, 8x8", "reports"),
        ("Fashion-MNIST, 28x28", "records/fashion_mnist"),
        ("the same from captions", "records/fashion_mnist_text"),
    ):
        metrics = read_metrics(ROOT / folder / "metrics.json").model_dump()
        timing = read(f"{folder}/timing.json")
        seeds = seeds_of(folder) or [metrics]
        for k in metrics["student"]["fd"]:
            sampler = metrics["best_teacher"][k]
            best = metrics["teachers"][sampler]
            ratios = [seed["ratio"]["fd"][k] for seed in seeds]
            recalls = [seed["student"]["recall"][k] for seed in seeds]
            # The range of the ratios alone would leave out the noise of the images, which a seed's interval holds.
            intervals = [seed["ratio"]["interval"][k] for seed in seeds]
            low, high = min(i["low"] for i in intervals), max(i["high"] for i in intervals)
            spread = f"{low:.2f} to {high:.2f}" + (f", {len(seeds)} seeds" if len(seeds) > 1 else "")
            rows.append(
                [
                    name,
                    k,
                    f"{statistics.fmean(ratios):.2f} ({spread})",
                    f"{statistics.fmean(recalls):.2f} / {best['recall'][k]:.2f}",
                    f"{timing['speedup'][sampler]:.0f} ({sampler_title(sampler)})",
                ]
            )
            name = ""
    head = [
        "run",
        "feature extractor",
        "FD, student / teacher (lower is better)",
        "recall, student / teacher (higher is better)",
        "speed-up over (sampler)",
    ]
    return markdown(head, rows)


def seeds_of(folder: str) -> list[dict[str, Any]]:
    """The figures of each seed; an empty list if the run has no seeds.json."""
    file = ROOT / folder / "seeds.json"
    content = json.loads(file.read_text()) if file.exists() else {}
    return [content[key] for key in sorted(content) if key.startswith("seed ")]


def ratios(folder: str) -> str:
    """Table of each seed's ratio to the teacher's best sampler."""
    metrics, seeds = read_metrics(ROOT / folder / "metrics.json"), seeds_of(folder)
    rows: list[Row] = []
    for k, best in metrics.best_teacher.items():
        each = [(seed["ratio"]["fd"][k], seed["ratio"]["interval"][k]) for seed in seeds]
        rows.append(
            [
                f"{k} ({sampler_title(best)})",
                *(f"{value:.3f} ({i['low']:.2f} to {i['high']:.2f})" for value, i in each),
                f"{statistics.fmean(value for value, _ in each):.3f}",
                ", ".join(f"{seed['recall_ratio'][k]:.3f}" for seed in seeds),
            ]
        )
    names = [f"FD, seed {i}" for i in range(len(seeds))]
    each_seed = ", ".join(str(i) for i in range(len(seeds)))
    return markdown(
        ["student / best teacher", *names, "mean", f"recall, seed{'s' * (len(seeds) > 1)} {each_seed}"], rows
    )


def fashion_mnist_seeds() -> str:
    """Table of the student of each seed."""
    seeds = seeds_of("records/fashion_mnist")
    names = list(seeds[0]["student"]["fd"])
    rows = [
        [f"student, seed {i}", *(figure(seed["student"][kind][k]) for kind in ("fd", "recall") for k in names)]
        for i, seed in enumerate(seeds)
    ]
    return markdown(["", *(f"FD {k}" for k in names), *(f"recall {k}" for k in names)], rows)


def selection() -> str:
    """Table of the comparison of validation measures: how their order agrees with that of the final figures.

    The file has means of logarithms, so that each loss is a geometric mean over the runs.
    """
    rows: list[Row] = []
    for name, result in read("records/selection.json").items():
        score, excess = result["spearman"]["score"], result["excess"]
        losses = (excess[rule] for rule in ("last generator", "former rule", "score, tolerance 1"))
        rows.append(
            [
                name,
                str(result["runs"]),
                str(result["generators"]),
                f"{score['all generators']:.2f}",
                f"{score['mean over runs']:.2f}",
                *(f"{math.expm1(loss):.1%}".replace("%", " %") for loss in losses),
            ]
        )
    head = ["data set", "runs", "generators", "rank correlation", "within a run"]
    return markdown([*head, "loss: last generator", "loss: former rule", "loss: this rule"], rows)


def chaos() -> str:
    """Table of the faults that benchmarks.chaos put into runs, and of what remained of them."""
    lives = read("records/chaos.json")["lives"]
    rows: list[Row] = []
    for kind in sorted({fault["kind"] for life in lives for fault in life["faults"]}):
        met = [(life, f) for life in lives for f in life["faults"] if f["kind"] == kind and f["injected"]]
        moments = list(dict.fromkeys(f["moment"] for _, f in sorted(met, key=lambda pair: pair[1]["moment"])))
        different = {life["life"] for life, _ in met if life["differences"]}
        rows.append([kind, str(len(met)), ", ".join(moments), str(len(different))])
    return markdown(["fault", "times", "in", "lives that differ"], rows)


def cards(names: Iterable[str]) -> str:
    """Table of the plans that answer which card a preset needs: the options to type, and memory from hardware.md."""
    page = (ROOT / "docs" / "hardware.md").read_text()
    rows = [
        f"| {title} | {cell(page, name, 'memory per process')} | `{options(PLANS[name])}` |\n"
        for title, name in ((title, CARDS[title]) for title in names)
    ]
    return "| training on | per card | options of `python -m flows.distill` |\n|---|--:|---|\n" + "".join(rows)


def options(words: Sequence[str]) -> str:
    """Options of flows.distill for a plan, with PATH for each value that its preset leaves to the user."""
    needs = YAML(typ="safe").load(ROOT / "experiments" / "presets" / f"{words[1]}.yaml").get("needs", {})
    changes = [*(f"{key}=PATH" for key in needs), *words[2:]]
    return " ".join([*words[:2], *(f'--set "{c}"' if " " in c else f"--set {c}" for c in changes)])


def ablation(name: str) -> str:
    """The table that flows.ablate has written."""
    lines = (ROOT / "reports" / "ablations" / f"{name}.md").read_text().splitlines()
    return "".join(f"{line}\n" for line in lines if line.startswith("|"))


# First column of the table of cards -> row of the hardware table.
CARDS = {
    "FLUX.1-dev with adapters, one card": "flux1_dev on one GPU",
    "SDXL, one card": "sdxl on one GPU",
    "SDXL, two cards": "sdxl on 2 GPUs, sharded",
    "Stable Diffusion 1.5 with adapters, one card": "sd15 on one GPU, adapters",
    "CIFAR-10, one card": "cifar10 on one GPU",
    "CIFAR-10, eight cards": "cifar10",
}
DIGITS = r"NFE|FD|matched FD|CLIP|accuracy|precision|recall|seconds"
FASHION = r"NFE|FD |recall|seconds"
TEXT = r"NFE|FD |CLIP|accuracy|recall|seconds"
TABLES: dict[str, Callable[[], str]] = {
    "results": results,
    "cards": lambda: cards(CARDS),
    "some_cards": lambda: cards(("SDXL, one card", "SDXL, two cards", "CIFAR-10, eight cards")),
    "measures": measures,
    "selection": selection,
    "chaos": chaos,
    "digits": lambda: sampler_table("reports", DIGITS),
    "fashion_mnist": lambda: sampler_table("records/fashion_mnist", FASHION),
    "fashion_mnist_seeds": fashion_mnist_seeds,
    "fashion_mnist_ratios": lambda: ratios("records/fashion_mnist"),
    "fashion_mnist_trunks": lambda: sampler_table("records/fashion_mnist_trunks", FASHION),
    "fashion_mnist_trunks_ratios": lambda: ratios("records/fashion_mnist_trunks"),
    "fashion_mnist_text": lambda: sampler_table("records/fashion_mnist_text", TEXT),
    "dmd2_paper": lambda: ablation("dmd2_paper"),
    "teachers": lambda: ablation("teachers"),
    "eps": lambda: ablation("eps"),
    "text": lambda: ablation("text"),
    **SPEED_TABLES,
}


def update_page(path: Path, page: str, tables: dict[str, Callable[[], str]]) -> str:
    """Return the page with every table and every figure taken from its file."""
    page = TABLE.sub(lambda m: m[1] + (tables[m["name"]]() if m["name"] in tables else m["body"]) + m[4], page)
    for claim in CLAIMS:
        if Path(claim.page) == path:
            page = claim.update(page)
    return page


def differences(before: str, after: str) -> list[str]:
    """The lines that change, with `- ` and `+ ` in front."""
    return [line for line in difflib.ndiff(before.splitlines(), after.splitlines()) if line.startswith(("- ", "+ "))]


def main() -> int:
    """Run the command and return its exit code: 1 if --check finds a line that is out of date."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--check", action="store_true", help="write nothing; print each line that is out of date")
    choice.add_argument("--hardware", action="store_true", help="also run --dry-run for each preset")
    args = parser.parse_args()
    tables = TABLES | ({"hardware": lambda: markdown(*hardware_table())} if args.hardware else {})
    stale = 0
    for path in PAGES:
        before = (ROOT / path).read_text()
        after = update_page(path, before, tables)
        for line in differences(before, after):
            print(f"{path}: {line}")
            stale += 1
        if before != after and not args.check:
            (ROOT / path).write_text(after)
    if not stale:
        print("every table and figure agrees with its file")
    return 1 if stale and args.check else 0


if __name__ == "__main__":
    sys.exit(main())
