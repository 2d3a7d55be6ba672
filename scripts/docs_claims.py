"""The sentences of README.md and docs/ that contain a figure, and the file that each figure comes from."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from evaluation.metrics.files import read_metrics

ROOT = Path(__file__).resolve().parent.parent


def cell(page: str, row: str, column: str) -> str:
    """Text of a cell of a table in a page, found by the first cell of its row and the head of its column."""
    lines = [[c.strip() for c in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("|")]
    head = next(line for line in lines if column in line)
    return next(line for line in lines if line[0] == row)[head.index(column)]


def value_of(file: str, keys: str) -> float:
    """Value of a figure in a JSON file, found by its keys, or in a table, found by its row and its column.

    A key of a list in a JSON file is the `name` of one of its elements.
    """
    if file.endswith(".md"):
        return float(cell((ROOT / file).read_text(), *keys.split("/")).split()[0].replace(",", ""))
    if file.endswith(".csv"):
        row, column = keys.split("/")
        return float(pd.read_csv(ROOT / file, index_col=0).loc[int(row), column])
    path = ROOT / file
    # The figures of a run are in two files.
    value = read_metrics(path).model_dump() if path.name == "metrics.json" else json.loads(path.read_text())
    for key in keys.split("/"):
        value = next(row for row in value if row["name"] == key) if isinstance(value, list) else value[key]
    return float(value)


@dataclass(frozen=True)
class Claim:
    """A sentence with a figure. In `text`, `{}` stands for the figure and a space for any white space."""

    page: str
    text: str
    file: str
    keys: str  # keys of the figure in the file, separated by /

    @property
    def pattern(self) -> re.Pattern[str]:
        """Pattern of the sentence with three groups: the text before the figure, the figure and the text after it."""
        before, after = (r"\s+".join(map(re.escape, part.split(" "))) for part in self.text.split("{}"))
        return re.compile(rf"({before})(\d[\d,]*(?:\.\d+)?)({after})")

    def update(self, page: str) -> str:
        """Return the page with the figure from the file, with as many decimals as before.

        Raises ValueError if the page does not contain the sentence.
        """
        match = self.pattern.search(page)
        if match is None:
            raise ValueError(f"{self.page} does not contain {self.text!r}; change the sentence or CLAIMS")
        decimals = len(match[2].partition(".")[2])
        value = value_of(self.file, self.keys)
        return self.pattern.sub(lambda m: f"{m[1]}{value:,.{decimals}f}{m[3]}", page)


SEEDS, FD_RATIO = "reports/ablations/fashion_mnist.json", "rows/dmd2/fd_ratio"
FASHION_TIMING = "records/fashion_mnist/timing.json"
PAPER = "reports/ablations/dmd2_paper.json"
TEXT_RUN, FASHION_LOSSES = "records/fashion_mnist_text/metrics.json", "records/fashion_mnist/losses.csv"
TEACHERS, DIGITS_TEXT = "reports/ablations/teachers.json", "reports/ablations/text/guidance_1_5_seed0.metrics.json"
CLAIMS = tuple(
    Claim(page, *claim)
    for page, claims in {
        "README.md": (
            ("(FD) is {} times the teacher's by", SEEDS, f"{FD_RATIO}.efficientnet_lite0/mean"),
            ("by `evaluator` ({} times) and", SEEDS, f"{FD_RATIO}.evaluator/mean"),
            ("and `classifier` ({} times) no difference", SEEDS, f"{FD_RATIO}.classifier/mean"),
            ("It is {} times faster than 50", FASHION_TIMING, "speedup/ddim_50"),
            ("steps, and {} times faster than the sampler that", FASHION_TIMING, "speedup/heun_10"),
            ("that the {} refers to", SEEDS, f"{FD_RATIO}.efficientnet_lite0/mean"),
            ("with adapters ({} GiB)", "docs/hardware.md", "sd15 on one GPU, adapters/memory per process"),
            ("CIFAR-10 ({} GiB)", "docs/hardware.md", "cifar10 on one GPU/memory per process"),
            ("is counted at {} GiB on each of eight", "docs/hardware.md", "flux1_dev/memory per process"),
            ("eight cards and {} A100 hours", "docs/hardware.md", "flux1_dev/cost"),
            ("Heun in {} passes", FASHION_TIMING, "teachers/heun_10/nfe"),
        ),
        "docs/ablations.md": (
            ("collapses (recall {})", PAPER, "rows/dm_alone/recall/mean"),
            ("recall with the pairs is {}.", PAPER, "rows/regression/recall/mean"),
        ),
        "docs/methods.md": (
            ("On digits, recall is {} with the", PAPER, "rows/regression/recall/mean"),
            ("warm start and {} without", PAPER, "rows/two_time_scales/recall/mean"),
            ("the teacher's is {} and", "reports/metrics.json", "teachers/ddim_100/recall/classifier"),
            ("is 0.89 and {}. Pairs", "reports/metrics.json", "teachers/ddim_100/recall/evaluator"),
        ),
        "docs/results.md": (
            ("fell from {} to", FASHION_LOSSES, "1000/validation_fd"),
            ("from 8.94 to {} in", FASHION_LOSSES, "1110/validation_fd"),
            ("best sampler is {} (", TEXT_RUN, "ratio/fd/evaluator"),
            ("0.903 ({} to", TEXT_RUN, "ratio/interval/evaluator/low"),
            ("(0.61 to {}) by the evaluator", TEXT_RUN, "ratio/interval/evaluator/high"),
            ("evaluator and {} (", TEXT_RUN, "ratio/fd/classifier"),
            ("0.725 ({} to", TEXT_RUN, "ratio/interval/classifier/low"),
            ("(0.32 to {}) by the classifier", TEXT_RUN, "ratio/interval/classifier/high"),
            ("in one pass, and {} times", "records/fashion_mnist_text/timing.json", "speedup/ddim_50"),
            ("schedule ({} by the classifier", TEACHERS, "rows/eps_linear/fd_ratio.classifier/mean"),
            ("classifier, {} by the evaluator): it keeps", TEACHERS, "rows/eps_linear/fd_ratio.evaluator/mean"),
            ("student's FD ({} by the classifier)", TEACHERS, "rows/edm/fd.classifier/mean"),
            ("that of v-prediction ({})", TEACHERS, "rows/v_cosine/fd.classifier/mean"),
            ("student's CLIP score is {}, its", DIGITS_TEXT, "student/clip_score"),
            ("its teacher's {} to", DIGITS_TEXT, "teachers/ddim_100/clip_score"),
            ("77.50 to {}; the", DIGITS_TEXT, "teachers/ddim_10/clip_score"),
            ("the FD ratio is {} by the classifier", DIGITS_TEXT, "ratio/fd/classifier"),
            ("classifier and {} by the evaluator (`reports", DIGITS_TEXT, "ratio/fd/evaluator"),
        ),
    }.items()
    for claim in claims
)
